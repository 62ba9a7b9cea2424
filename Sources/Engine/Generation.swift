import Synchronization

/// The pieces of text of a running generation, in the order they are made.
///
/// Breaking out of the loop, cancelling the task or calling `cancel` stops the computation at the next token.
public struct Generation: AsyncSequence, Sendable {
    public typealias Element = GenerationPiece

    private let stream: AsyncThrowingStream<GenerationPiece, any Error>
    let control: GenerationControl

    init(stream: AsyncThrowingStream<GenerationPiece, any Error>, control: GenerationControl) {
        self.stream = stream
        self.control = control
    }

    public func makeAsyncIterator() -> AsyncThrowingStream<GenerationPiece, any Error>.Iterator {
        stream.makeAsyncIterator()
    }

    /// Ends every sequence at the next token with the reason `cancelled`.
    public func cancel() {
        control.isCancelled.store(true, ordering: .relaxed)
    }

    /// What the generation took; nil until it has ended.
    public var report: GenerationReport? { control.report.withLock { $0 } }
}

/// What one step adds to one sequence.
public struct GenerationPiece: Sendable {
    public enum FinishReason: String, Sendable, Codable {
        case endOfSequence = "end-of-sequence"
        case stopString = "stop-string"
        case maximumTokens = "maximum-tokens"
        case cancelled
    }

    /// Which of the prompts it continues.
    public var sequence: Int
    /// Whole characters; empty while a character or a stop string is incomplete, and without a tokenizer.
    public var text: String
    /// nil where the piece only ends the sequence.
    public var token: Int32?
    public var logProbabilities: TokenLogProbabilities?
    /// Set in a sequence's last piece.
    public var finishReason: FinishReason?
}

/// What the thread that computes and the one that reads share.
final class GenerationControl: Sendable {
    let isCancelled = Atomic<Bool>(false)
    let report = Mutex<GenerationReport?>(nil)
}
