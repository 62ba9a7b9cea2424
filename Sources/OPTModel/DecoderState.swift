/// Sequences that are decoded together: their caches and their lengths.
public final class DecoderState: @unchecked Sendable {  // touched only by the thread that leads the decoder
    public let cache: any LaneCache
    public let sequenceCount: Int
    /// The token that `Decoder.step` appends to each sequence.
    public let nextTokens: UnsafeMutablePointer<Int32>
    /// The sequences that `Decoder.step` continues.
    public let isActive: UnsafeMutablePointer<Bool>
    let batch: StepBatch
    private let lengths: UnsafeMutablePointer<Int>

    /// - Parameters:
    ///   - capacities: the positions that each sequence has room for.
    ///   - logitsCount: the rows of a pass whose logits are wanted, at most, where that is more than one of each sequence.
    public init(_ lane: some Lane, capacities: [Int], logitsCount: Int = 0) throws(ModelError) {
        precondition(
            logitsCount <= lane.logitsCapacity,
            "DecoderState: logits of \(logitsCount) of \(lane.logitsCapacity) rows")
        sequenceCount = capacities.count
        cache = try lane.makeCache(capacities: capacities, logitsCount: logitsCount)
        let rowCapacity = min(lane.rowCapacity, max(sequenceCount, capacities.reduce(0, +)))
        let segmentCapacity = min(rowCapacity, sequenceCount, lane.segmentCapacity)
        batch = StepBatch(
            rowCapacity: rowCapacity, segmentCapacity: segmentCapacity,
            logitsCapacity: max(segmentCapacity, logitsCount))
        nextTokens = .allocate(capacity: sequenceCount)
        nextTokens.initialize(repeating: 0, count: sequenceCount)
        isActive = .allocate(capacity: sequenceCount)
        isActive.initialize(repeating: false, count: sequenceCount)
        lengths = .allocate(capacity: sequenceCount)
        lengths.initialize(repeating: 0, count: sequenceCount)
    }

    deinit {
        nextTokens.deallocate()
        isActive.deallocate()
        lengths.deallocate()
    }

    /// The positions that a sequence has in its cache.
    public func length(of sequence: Int) -> Int { lengths[sequence] }

    /// Forgets what a sequence has beyond `length` positions.
    public func truncate(_ sequence: Int, to length: Int) {
        precondition(length <= lengths[sequence], "DecoderState: \(length) of \(lengths[sequence]) positions")
        lengths[sequence] = length
    }

    func append(
        _ tokens: UnsafeBufferPointer<Int32>, to sequence: Int, logitsCount: Int, choice: TokenChoice? = nil
    ) {
        precondition(
            lengths[sequence] + tokens.count <= cache.capacities[sequence],
            "DecoderState: \(lengths[sequence]) + \(tokens.count) of \(cache.capacities[sequence]) positions")
        batch.append(
            tokens, sequence: sequence, firstPosition: lengths[sequence], logitsCount: logitsCount,
            choice: choice)
        lengths[sequence] += tokens.count
    }
}
