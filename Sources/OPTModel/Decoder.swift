import CPUKernels
import HostRuntime
import Synchronization

/// Runs tokens through the model: whole prompts in pieces, then one token of each sequence a step.
///
/// All calls come from the pool's leader thread.
public final class Decoder: Sendable {
    public let weights: OPTWeights
    public let pool: WorkerPool
    private let lane: CPULane

    /// The most rows of one pass. More would not make prefill faster: the weights are already read for hundreds of
    /// rows at once.
    public static let rowCapacity = 512

    public init(_ weights: OPTWeights, pool: WorkerPool, kernels: UnsafePointer<tandem_cpu_kernels>)
        throws(HostMemoryError)
    {
        self.weights = weights
        self.pool = pool
        lane = try CPULane(weights, pool: pool, kernels: kernels, rowCapacity: Self.rowCapacity)
    }

    /// Appends a run of tokens to each sequence that has one, and lends the logits of each run's last token.
    ///
    /// - Parameter body: called once for each sequence with a run, with its [vocabulary] logits.
    /// - Returns: false where `isCancelled` became true in between; the sequences then have some of their runs.
    public func prefill(
        _ runs: [[Int32]], state: DecoderState, isCancelled: borrowing Atomic<Bool>,
        _ body: (_ sequence: Int, _ logits: UnsafeMutableBufferPointer<Float>) -> Void
    ) -> Bool {
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
                    state.append($0, to: sequence, wantsLogits: rest.isEmpty)
                }
                if state.batch.freeRowCount == 0 {
                    compute(state, body)
                    if isCancelled.load(ordering: .relaxed) { return false }
                }
            }
        }
        compute(state, body)
        return true
    }

    /// Appends the next token of each active sequence and lends its logits; allocates nothing.
    public func step(
        _ state: DecoderState,
        _ body: (_ sequence: Int, _ logits: UnsafeMutableBufferPointer<Float>) -> Void
    ) {
        for sequence in 0..<state.sequenceCount where state.isActive[sequence] {
            state.append(
                UnsafeBufferPointer(start: state.nextTokens + sequence, count: 1), to: sequence,
                wantsLogits: true)
            if state.batch.freeRowCount == 0 { compute(state, body) }
        }
        compute(state, body)
    }

    private func compute(
        _ state: DecoderState, _ body: (Int, UnsafeMutableBufferPointer<Float>) -> Void
    ) {
        let batch = state.batch
        lane.compute(batch, cache: state.cache, logits: state.logits)
        let vocabularySize = weights.configuration.vocabularySize
        for index in 0..<batch.segmentCount {
            let segment = batch.segments[index]
            if segment.logitsRow < 0 { continue }
            body(
                segment.sequence,
                UnsafeMutableBufferPointer(
                    start: state.logits + segment.logitsRow * vocabularySize, count: vocabularySize))
        }
        batch.removeAll()
    }
}
