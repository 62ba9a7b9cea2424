import HostRuntime

/// The keys and values of several sequences, for a range of every layer's heads, in CPU memory: in fp16, or in 4 bits where the
/// configuration says so.
///
/// A sequence has room for its own number of positions, so that ragged batches take no padding. The positions of a
/// head are contiguous: [sequence][layer][key, value][head][position][head dimension].
/// Sendable, because it owns its buffer and threads write disjoint positions.
public final class KVCache: LaneCache, @unchecked Sendable {
    public let heads: Range<Int>
    public let capacities: [Int]
    public var sequenceCount: Int { capacities.count }

    private let buffer: HostBuffer
    /// Of a head's key or value.
    private let positionByteCount: Int
    /// Where a sequence begins.
    private let firstBytes: [Int]

    public init(_ configuration: OPTConfiguration, heads: Range<Int>, capacities: [Int], pool: WorkerPool)
        throws(HostMemoryError)
    {
        self.heads = heads
        self.capacities = capacities
        positionByteCount = configuration.cachePositionByteCount
        let allHeads = 2 * configuration.layerCount * heads.count * positionByteCount
        var firstBytes: [Int] = []
        var byteCount = 0
        for capacity in capacities {
            firstBytes.append(byteCount)
            byteCount += capacity * allHeads
        }
        self.firstBytes = firstBytes
        buffer = try HostBuffer(byteCount: byteCount)
        pool.firstTouch(base: buffer.baseAddress, byteCount: buffer.byteCount)
    }

    public var byteCount: Int { buffer.byteCount }

    /// The bytes of one position of one sequence, all layers and heads.
    public static func byteCountPerPosition(_ configuration: OPTConfiguration) -> Int {
        2 * configuration.layerCount * configuration.headCount * configuration.cachePositionByteCount
    }

    /// [capacity, head dimension] of one head; `head` counts in the whole layer.
    @inline(__always)
    func keys(layer: Int, sequence: Int, head: Int) -> UnsafeMutableRawPointer {
        base(layer: layer, sequence: sequence, head: head, part: 0)
    }

    /// [capacity, head dimension] of one head; `head` counts in the whole layer.
    @inline(__always)
    func values(layer: Int, sequence: Int, head: Int) -> UnsafeMutableRawPointer {
        base(layer: layer, sequence: sequence, head: head, part: 1)
    }

    private func base(layer: Int, sequence: Int, head: Int, part: Int) -> UnsafeMutableRawPointer {
        let row = (layer * 2 + part) * heads.count + head - heads.lowerBound
        return buffer.baseAddress + firstBytes[sequence] + row * capacities[sequence] * positionByteCount
    }
}
