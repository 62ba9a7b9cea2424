/// Sums and gathers what the processes of a group have in CPU memory.
///
/// Every process makes the same calls in the same order, from one thread at a time. A call returns when the process has its
/// result; none allocates.
public protocol Communicator: AnyObject, Sendable {
    var place: RankPlace { get }

    /// Replaces `values` by the sum of all processes' values, the same bits on all of them.
    func allReduce(_ values: UnsafeMutablePointer<Float>, count: Int) throws(CollectiveError)

    /// Brings each process's values to rank 0, one process's behind the other's in the order of ranks.
    ///
    /// - Parameters:
    ///   - counts: the values of each process.
    ///   - result: where they go; nil on all other ranks.
    func gather(
        _ values: UnsafePointer<Float>, counts: GatherCounts, to result: UnsafeMutablePointer<Float>?
    ) throws(CollectiveError)
}

/// How many values each process gives to a gathering, and where they begin in the result.
public final class GatherCounts: @unchecked Sendable {  // not changed once it is made
    let counts, offsets: UnsafeMutablePointer<Int32>
    public let size: Int

    public init(_ counts: [Int]) {
        size = counts.count
        self.counts = .allocate(capacity: size)
        offsets = .allocate(capacity: size)
        var offset = 0
        for (rank, count) in counts.enumerated() {
            self.counts[rank] = Int32(count)
            offsets[rank] = Int32(offset)
            offset += count
        }
    }

    deinit {
        counts.deallocate()
        offsets.deallocate()
    }

    public func count(of rank: Int) -> Int { Int(counts[rank]) }
    public func offset(of rank: Int) -> Int { Int(offsets[rank]) }
}
