/// Where a layer's resident matrices lie in its GPU memory.
struct ResidentOffsets {
    let qkv, output, fc1, fc2: Int

    init(
        _ layout: inout SlotLayout, _ tensors: OPTTensors, layer: Int, _ heads: Range<Int>,
        _ neurons: Range<Int>
    ) {
        let headSize = tensors.configuration.headDimension
        let rows = heads.lowerBound * headSize..<heads.upperBound * headSize
        qkv = layout.matrix(tensors.projectionWeight(.query, layer: layer), rows: rows)
        layout.joinNext()
        _ = layout.matrix(tensors.projectionWeight(.key, layer: layer), rows: rows)
        layout.joinNext()
        _ = layout.matrix(tensors.projectionWeight(.value, layer: layer), rows: rows)
        output = layout.transposedMatrix(tensors.projectionWeight(.output, layer: layer), columns: rows)
        fc1 = layout.matrix(tensors.fc1Weight(layer: layer), rows: neurons)
        fc2 = layout.transposedMatrix(tensors.fc2Weight(layer: layer), columns: neurons)
    }
}

/// Where a layer's vectors lie in its GPU memory; nil where the model has none.
struct VectorOffsets {
    let attentionNormWeight, attentionNormBias, outputBias: Int?
    let mlpNormWeight, mlpNormBias, fc1Bias, fc2Bias: Int?

    init(_ layout: inout SlotLayout, _ tensors: OPTTensors, layer: Int) {
        attentionNormWeight = layout.vector(tensors.attentionLayerNorm(.weight, layer: layer))
        attentionNormBias = layout.vector(tensors.attentionLayerNorm(.bias, layer: layer))
        outputBias = layout.vector(tensors.projectionBias(.output, layer: layer))
        mlpNormWeight = layout.vector(tensors.mlpLayerNorm(.weight, layer: layer))
        mlpNormBias = layout.vector(tensors.mlpLayerNorm(.bias, layer: layer))
        fc1Bias = layout.vector(tensors.fc1Bias(layer: layer))
        fc2Bias = layout.vector(tensors.fc2Bias(layer: layer))
    }
}

/// A layer's part in CPU memory, as runs of bytes for the ring.
struct HostShard {
    let shard: LayerShard

    init(_ shard: LayerShard) { self.shard = shard }

    var slots: [TensorSlot] { shard.slots }
    var byteCount: Int { shard.buffer.byteCount }
    var base: UnsafeMutableRawPointer { shard.buffer.baseAddress }

    /// Queries, keys, values and the output projection of `rows`, counted in the whole layer.
    func attentionRuns(_ rows: Range<Int>, headSize: Int, rowByteCount: Int) -> [UnsafeRawBufferPointer] {
        let first = rows.lowerBound - shard.heads.lowerBound * headSize
        let count = shard.heads.count * headSize
        let qkv = UnsafeRawPointer(shard.attention.qkv)
        let output = UnsafeRawPointer(shard.attention.output)
        let runs = [qkv, qkv + count * rowByteCount, qkv + 2 * count * rowByteCount, output]
        return runs.map {
            UnsafeRawBufferPointer(start: $0 + first * rowByteCount, count: rows.count * rowByteCount)
        }
    }

    /// fc1 and fc2 of `neurons`, counted in the whole layer.
    func mlpRuns(_ neurons: Range<Int>, rowByteCount: Int) -> [UnsafeRawBufferPointer] {
        let first = neurons.lowerBound - shard.neurons.lowerBound
        return [UnsafeRawPointer(shard.mlp.fc1), UnsafeRawPointer(shard.mlp.fc2)].map {
            UnsafeRawBufferPointer(start: $0 + first * rowByteCount, count: neurons.count * rowByteCount)
        }
    }
}
