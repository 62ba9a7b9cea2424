/// A layer's part in CPU memory, as runs of bytes for the ring.
struct HostShard {
    let shard: LayerShard

    init(_ shard: LayerShard) { self.shard = shard }

    var slots: [TensorSlot] { shard.slots }
    var byteCount: Int { shard.buffer.byteCount }
    var base: UnsafeMutableRawPointer { shard.buffer.baseAddress }

    /// Queries, keys, values and the output projection of `rows`, counted in the whole layer.
    func attentionRuns(_ rows: Range<Int>, headSize: Int) -> [UnsafeRawBufferPointer] {
        let first = rows.lowerBound - shard.heads.lowerBound * headSize
        let count = shard.heads.count * headSize
        let qkv = shard.attention.qkv
        let own = first..<first + rows.count
        return (0..<3).map { qkv.from($0 * count).bytes(own) } + [shard.attention.output.bytes(own)]
    }

    /// fc1 and fc2 of `neurons`, counted in the whole layer.
    func mlpRuns(_ neurons: Range<Int>) -> [UnsafeRawBufferPointer] {
        let first = neurons.lowerBound - shard.neurons.lowerBound
        let own = first..<first + neurons.count
        return [shard.mlp.fc1.bytes(own), shard.mlp.fc2.bytes(own)]
    }
}
