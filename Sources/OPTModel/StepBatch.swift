import HostRuntime

/// The rows of one pass through the layers: a run of new tokens for each of several sequences, one behind the other
/// and without padding.
///
/// Its memory is made once, for the most rows and sequences that it will hold.
public final class StepBatch: @unchecked Sendable {  // written between steps, read by the lanes during them
    /// New tokens of one sequence.
    public struct Segment: Sendable {
        public var sequence: Int
        public var firstRow: Int
        public var rowCount: Int
        /// The position of the segment's first token in its sequence.
        public var firstPosition: Int
        /// The segment's last rows whose logits are wanted: one to go on from, all of them to score a text, or none.
        public var logitsCount: Int
        /// Where the logits of the first of them go; -1 where there are none.
        public var logitsRow: Int
    }

    public let rowCapacity: Int
    public let segmentCapacity: Int
    public let logitsCapacity: Int
    public private(set) var rowCount = 0
    public private(set) var segmentCount = 0
    public private(set) var logitsCount = 0
    let tokens: UnsafeMutablePointer<Int32>
    let positions: UnsafeMutablePointer<Int32>
    let segments: UnsafeMutablePointer<Segment>
    /// The row whose logits go to logits row i.
    let logitsRows: UnsafeMutablePointer<Int32>
    private let choices: UnsafeMutablePointer<TokenChoice?>

    /// - Parameter logitsCapacity: the most rows whose logits are wanted; nil for one of each segment.
    public init(rowCapacity: Int, segmentCapacity: Int, logitsCapacity: Int? = nil) {
        self.rowCapacity = rowCapacity
        self.segmentCapacity = segmentCapacity
        self.logitsCapacity = logitsCapacity ?? segmentCapacity
        tokens = .allocate(capacity: rowCapacity)
        positions = .allocate(capacity: rowCapacity)
        segments = .allocate(capacity: segmentCapacity)
        logitsRows = .allocate(capacity: self.logitsCapacity)
        choices = .allocate(capacity: segmentCapacity)
        choices.initialize(repeating: nil, count: segmentCapacity)
    }

    deinit {
        tokens.deallocate()
        positions.deallocate()
        segments.deallocate()
        logitsRows.deallocate()
        choices.deallocate()
    }

    /// The rows that still fit; none where there is no room for a further segment.
    public var freeRowCount: Int { segmentCount == segmentCapacity ? 0 : rowCapacity - rowCount }

    /// How the lane is to choose a segment's token; nil where its logits are wanted.
    func choice(segment index: Int) -> TokenChoice? { choices[index] }

    public func removeAll() {
        rowCount = 0
        segmentCount = 0
        logitsCount = 0
    }

    /// Adds the tokens that follow `firstPosition` positions of `sequence`.
    ///
    /// A lane that can chooses the next token as `choice` says, instead of giving its logits.
    /// - Parameter logitsCount: the last of the tokens whose logits are wanted; one where there is a choice.
    public func append(
        _ newTokens: UnsafeBufferPointer<Int32>, sequence: Int, firstPosition: Int, logitsCount count: Int,
        choice: TokenChoice? = nil
    ) {
        precondition(
            newTokens.count <= freeRowCount && segmentCount < segmentCapacity,
            "StepBatch: \(newTokens.count) rows into \(freeRowCount)")
        precondition(
            0...newTokens.count ~= count && count <= logitsCapacity - logitsCount
                && (choice == nil || count == 1),
            "StepBatch: logits of \(count) of \(newTokens.count) rows into \(logitsCapacity - logitsCount)")
        for (index, token) in newTokens.enumerated() {
            tokens[rowCount + index] = token
            positions[rowCount + index] = Int32(firstPosition + index)
        }
        segments[segmentCount] = Segment(
            sequence: sequence, firstRow: rowCount, rowCount: newTokens.count, firstPosition: firstPosition,
            logitsCount: count, logitsRow: count > 0 ? logitsCount : -1)
        choices[segmentCount] = choice
        segmentCount += 1
        rowCount += newTokens.count
        for row in rowCount - count..<rowCount {
            logitsRows[logitsCount] = Int32(row)
            logitsCount += 1
        }
    }
}

extension StepBatch {
    /// Gives every segment that wants logits its rows of them, of [logits rows, vocabulary].
    func deliver(
        _ logits: UnsafeMutablePointer<Float>, vocabularySize: Int,
        _ body: (_ segment: Segment, _ output: LaneOutput) -> Void
    ) {
        for index in 0..<segmentCount {
            let segment = segments[index]
            if segment.logitsRow < 0 { continue }
            body(segment, segment.output(logits, vocabularySize: vocabularySize))
        }
    }
}

extension StepBatch.Segment {
    /// The segment's rows of [logits rows, vocabulary].
    func output(_ logits: UnsafeMutablePointer<Float>, vocabularySize: Int) -> LaneOutput {
        .logits(
            UnsafeMutableBufferPointer(
                start: logits + logitsRow * vocabularySize, count: logitsCount * vocabularySize))
    }
}
