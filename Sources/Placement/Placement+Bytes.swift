/// Bytes of a placement's parts.
extension Placement {
    /// The bytes of so many heads, neurons or rows of a kind, in all layers.
    public func byteCount(_ kind: LayerKind, _ range: Range<Int>) -> Int {
        switch kind {
        case .inputEmbedding: range.count * shape.bytesPerPositionRow
        case .outputEmbedding: range.count * shape.bytesPerTokenRow
        case .attention: shape.layerCount * range.count * shape.bytesPerHead
        case .mlp: shape.layerCount * range.count * shape.bytesPerNeuron
        }
    }

    /// The weights of a kind that lie on `tier`, all layers.
    public func weightByteCount(_ kind: LayerKind, on tier: Tier) -> Int {
        byteCount(kind, self[kind].weights[tier])
    }

    /// The weights that one step moves from `tier` to the GPU, all layers.
    ///
    /// The rows of the tables that are looked up are not counted.
    public func streamedByteCount(from tier: Tier) -> Int {
        [LayerKind.outputEmbedding, .attention, .mlp].reduce(0) {
            $0 + byteCount($1, self[$1].streamed(from: tier))
        }
    }

    /// The weights that the CPU reads in a step, all layers.
    public var cpuComputedByteCount: Int {
        [LayerKind.outputEmbedding, .attention, .mlp].reduce(0) {
            $0 + byteCount($1, self[$1].cpuComputed)
        }
    }

    /// The part of them that lies on `tier`.
    public func cpuComputedByteCount(on tier: Tier) -> Int {
        [LayerKind.outputEmbedding, .attention, .mlp].reduce(0) {
            $0 + byteCount($1, self[$1].cpuComputed(on: tier))
        }
    }

    /// The cache of the heads that the CPU computes, of so many bytes of all heads' keys and values.
    public func cpuComputedCacheByteCount(of byteCount: Int) -> Int {
        byteCount * attention.cpuComputed.count / max(1, cacheHeads.count)
    }

    /// The part on `tier` of the cache of the heads that the GPU computes, of so many bytes of all heads' keys and values.
    public func gpuComputedCacheByteCount(on tier: Tier, of byteCount: Int) -> Int {
        byteCount * cacheHeads[tier].clamped(to: attention.gpuComputed).count / max(1, cacheHeads.count)
    }

    /// The cache that lies on `tier`, for sequences with so many positions together.
    public func cacheByteCount(on tier: Tier, positionCount: Int) -> Int {
        cacheHeads[tier].count * positionCount * shape.cacheBytesPerHead
    }

    /// The part on `tier` of so many bytes of all heads' keys and values.
    public func cacheByteCount(on tier: Tier, of byteCount: Int) -> Int {
        byteCount * cacheHeads[tier].count / max(1, cacheHeads.count)
    }
}
