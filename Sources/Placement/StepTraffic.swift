/// The bytes that a decode step reads, by who reads them and where.
struct StepTraffic {
    /// One of `count` blocks that are alike.
    struct Block {
        let count: Int
        /// GPU memory: what is resident, what was streamed there, and the cache.
        let gpuByteCount: Double
        /// Cache elsewhere that the GPU reads in place, over PCIe.
        let inPlaceByteCount: Double
        let cpuWeightByteCount: Double
        let cpuWeightCount: Double
        let cpuCacheByteCount: Double
        /// Keys and values in 4 bits that the CPU computes with.
        let cpuCachedElementCount: Double
        /// What comes to the GPU through the staging ring.
        let streamedByteCount: Double
        /// How often the CPU reads its weights.
        let cpuTurnCount: Int
        var cpuByteCount: Double { cpuWeightByteCount * Double(cpuTurnCount) + cpuCacheByteCount }
    }

    let attention: Block
    let mlp: Block
    let logits: Block
    let streamedFromCPU: Double
    let streamedFromDisk: Double
    /// What the CPU computes with and does not have.
    let computedFromDisk: Double
    let diskCacheByteCount: Double

    /// `positionCount`: over which the step attends, all sequences together. `cpuTurnCount`: how often the CPU reads its
    /// weights.
    init(_ placement: Placement, positionCount: Int, cpuTurnCount: Int) {
        let shape = placement.shape
        let layerCount = shape.layerCount
        let bytesPerCacheHead =
            Double(positionCount) * Double(shape.cacheBytesPerHead) / Double(max(1, layerCount))
        func block(
            _ layer: LayerPlacement, count: Int, bytesPerUnit: Int, weightsPerUnit: Int,
            cache: (gpu: Int, inPlace: Int, cpu: Int)
        ) -> Block {
            Block(
                count: count,
                gpuByteCount: Double(layer.gpuComputed.count * bytesPerUnit) + Double(cache.gpu)
                    * bytesPerCacheHead,
                inPlaceByteCount: Double(cache.inPlace) * bytesPerCacheHead,
                cpuWeightByteCount: Double(layer.cpuComputed.count * bytesPerUnit),
                cpuWeightCount: Double(layer.cpuComputed.count * weightsPerUnit),
                cpuCacheByteCount: Double(cache.cpu) * bytesPerCacheHead,
                cpuCachedElementCount: shape.hasQuantizedCache
                    ? Double(cache.cpu * positionCount * 2 * shape.headDimension) : 0,
                streamedByteCount: Double(layer.streamed.count * bytesPerUnit), cpuTurnCount: cpuTurnCount)
        }
        let heads = placement.attention
        attention = block(
            heads, count: layerCount, bytesPerUnit: shape.bytesPerHead,
            weightsPerUnit: shape.weightsPerHead,
            cache: (
                placement.cacheHeads.gpu.count, placement.gpuHeadsWithCacheElsewhere.count,
                heads.cpuComputed.count
            ))
        mlp = block(
            placement.mlp, count: layerCount, bytesPerUnit: shape.bytesPerNeuron,
            weightsPerUnit: shape.weightsPerNeuron, cache: (0, 0, 0))
        logits = block(
            placement.tokenTable, count: 1, bytesPerUnit: shape.bytesPerTokenRow,
            weightsPerUnit: shape.embeddingSize, cache: (0, 0, 0))
        streamedFromCPU = Double(placement.streamedByteCount(from: .cpu))
        streamedFromDisk = Double(placement.streamedByteCount(from: .disk))
        computedFromDisk = Double(placement.cpuComputedByteCount(on: .disk))
        diskCacheByteCount = Double(placement.cacheByteCount(on: .disk, positionCount: positionCount))
    }

    /// What the CPU lane reads in a step.
    var cpuByteCount: Double { total { $0.cpuByteCount } }
    /// The cache that the GPU reads in place in a step.
    var inPlaceByteCount: Double { total { $0.inPlaceByteCount } }

    private func total(_ byteCount: (Block) -> Double) -> Double {
        Double(attention.count) * byteCount(attention) + Double(mlp.count) * byteCount(mlp)
            + Double(logits.count) * byteCount(logits)
    }
}
