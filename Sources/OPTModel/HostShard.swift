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
