import Synchronization

/// Runs tokens through the model: whole prompts in pieces, then one token of each sequence a step.
///
/// All calls come from the pool's leader thread.
public final class Decoder: Sendable {
    public let lane: any Lane

    public init(_ lane: some Lane) {
        self.lane = lane
    }

    /// Makes sequences with room for `capacities` positions, and room for the logits of `logitsCount` rows of a pass, or
    /// one of each sequence.
    public func makeState(capacities: [Int], logitsCount: Int = 0) throws(ModelError) -> DecoderState {
        try DecoderState(lane, capacities: capacities, logitsCount: logitsCount)
    }

    /// Appends a run of tokens to each sequence that has one, and lends the logits of each run's last token.
    ///
    /// - Parameters:
    ///   - choice: how a sequence's token is to be chosen where the lane can do so; nil to get its logits.
    ///   - body: called once for each sequence with a run, with its logits or its token.
    /// - Returns: false where `isCancelled` became true in between; the sequences then have some of their runs.
    public func prefill(
        _ runs: [[Int32]], state: DecoderState, isCancelled: borrowing Atomic<Bool>,
        choice: (_ sequence: Int) -> TokenChoice? = { _ in nil },
        _ body: (_ sequence: Int, _ output: LaneOutput) -> Void
    ) throws(ModelError) -> Bool {
        precondition(
            runs.count == state.sequenceCount, "Decoder: \(runs.count) runs, \(state.sequenceCount) sequences"
        )
        state.batch.removeAll()
        for (sequence, run) in runs.enumerated() {
            var rest = run[...]
            while !rest.isEmpty {
                let piece = rest.prefix(state.batch.freeRowCount)
                rest = rest.dropFirst(piece.count)
                piece.withUnsafeBufferPointer {
                    state.append(
                        $0, to: sequence, logitsCount: rest.isEmpty ? 1 : 0,
                        choice: rest.isEmpty ? choice(sequence) : nil)
                }
                if state.batch.freeRowCount == 0 {
                    try compute(state, body)
                    if isCancelled.load(ordering: .relaxed) { return false }
                }
            }
        }
        try compute(state, body)
        return true
    }

    /// Appends the next token of each active sequence and lends its logits or its chosen token; allocates nothing.
    public func step(
        _ state: DecoderState, choice: (_ sequence: Int) -> TokenChoice? = { _ in nil },
        _ body: (_ sequence: Int, _ output: LaneOutput) -> Void
    ) throws(ModelError) {
        for sequence in 0..<state.sequenceCount where state.isActive[sequence] {
            state.append(
                UnsafeBufferPointer(start: state.nextTokens + sequence, count: 1), to: sequence,
                logitsCount: 1, choice: choice(sequence))
            if state.batch.freeRowCount == 0 { try compute(state, body) }
        }
        try compute(state, body)
    }

    /// Appends a run of tokens to a sequence and lends the logits of its last `logitsCount` tokens, [rows, vocabulary].
    ///
    /// What stands in front of them goes in passes as large as the lane takes, without logits. So a text is scored in runs
    /// of as many rows as there is memory for their logits (`makeState`), over the cache of what came before.
    public func append(
        _ run: [Int32], logitsCount: Int, to sequence: Int, state: DecoderState,
        _ body: (_ logits: UnsafeMutableBufferPointer<Float>) -> Void
    ) throws(ModelError) {
        state.batch.removeAll()
        var rest = run[...]
        while !rest.isEmpty {
            let isLast = rest.count <= state.batch.rowCapacity
            let piece = rest.prefix(
                isLast ? rest.count : min(state.batch.rowCapacity, rest.count - logitsCount))
            rest = rest.dropFirst(piece.count)
            piece.withUnsafeBufferPointer {
                state.append($0, to: sequence, logitsCount: isLast ? logitsCount : 0)
            }
            try compute(state) { if case .logits(let logits) = $1 { body(logits) } }
        }
    }

    private func compute(_ state: DecoderState, _ body: (Int, LaneOutput) -> Void) throws(ModelError) {
        try lane.compute(state.batch, cache: state.cache) { segment, output in body(segment.sequence, output)
        }
        state.batch.removeAll()
    }
}
