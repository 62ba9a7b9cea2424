import HostRuntime

/// The keys and values of several sequences, for a range of every layer's heads, in fp16 in CPU memory.
///
/// A sequence has room for its own number of positions, so that ragged batches take no padding. The positions of a
/// head are contiguous: [sequence][layer][key, value][head][position][head dimension].
/// Sendable, because it owns its buffer and threads write disjoint positions.
public final class KVCache: LaneCache, @unchecked Sendable {
    public let heads: Range<Int>
    public let capacities: [Int]
    public var sequenceCount: Int { capacities.count }

    private let buffer: HostBuffer
    private let headDimension: Int
    /// Where a sequence begins, in elements.
    private let firstElements: [Int]

    public init(_ configuration: OPTConfiguration, heads: Range<Int>, capacities: [Int], pool: WorkerPool)
        throws(HostMemoryError)
    {
        self.heads = heads
        self.capacities = capacities
        headDimension = configuration.headDimension
        let elementsPerPosition = 2 * configuration.layerCount * heads.count * headDimension
        var firstElements: [Int] = []
        var elementCount = 0
        for capacity in capacities {
            firstElements.append(elementCount)
            elementCount += capacity * elementsPerPosition
        }
        self.firstElements = firstElements
        buffer = try HostBuffer(byteCount: elementCount * MemoryLayout<UInt16>.size)
        pool.firstTouch(base: buffer.baseAddress, byteCount: buffer.byteCount)
    }

    public var byteCount: Int { buffer.byteCount }

    /// The bytes of one position of one sequence, all layers and heads.
    public static func byteCountPerPosition(_ configuration: OPTConfiguration) -> Int {
        2 * configuration.layerCount * configuration.attentionWidth * MemoryLayout<UInt16>.size
    }

    /// [capacity, head dimension] of one head; `head` counts in the whole layer.
    @inline(__always)
    func keys(layer: Int, sequence: Int, head: Int) -> UnsafeMutablePointer<UInt16> {
        base(layer: layer, sequence: sequence, head: head, part: 0)
    }

    /// [capacity, head dimension] of one head; `head` counts in the whole layer.
    @inline(__always)
    func values(layer: Int, sequence: Int, head: Int) -> UnsafeMutablePointer<UInt16> {
        base(layer: layer, sequence: sequence, head: head, part: 1)
    }

    private func base(layer: Int, sequence: Int, head: Int, part: Int) -> UnsafeMutablePointer<UInt16> {
        let row = (layer * 2 + part) * heads.count + head - heads.lowerBound
        let element = firstElements[sequence] + row * capacities[sequence] * headDimension
        return buffer.baseAddress.assumingMemoryBound(to: UInt16.self) + element
    }
}
