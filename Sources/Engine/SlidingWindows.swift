/// How a text is scored by a model that sees only so many tokens at once.
///
/// A window is a run of the text's tokens. The model is given the beginning-of-sequence token and all of the window but its
/// last token, and so predicts each of the window's tokens from those before it. Windows begin `stride` apart. Each scores
/// what no window before it has: what they share is context only, as in Hugging Face's "Perplexity of fixed-length models".
public struct SlidingWindows: Sendable, Hashable {
    /// The tokens of the text.
    public let tokenCount: Int
    /// The tokens of a window, and the positions that it takes.
    public let length: Int
    public let stride: Int

    /// - Parameters:
    ///   - length: nil for as many as the model has positions; never more than the text has tokens.
    ///   - stride: nil for half of a window.
    public init(tokenCount: Int, length: Int? = nil, stride: Int? = nil, maximumPositions: Int)
        throws(EngineError)
    {
        try Self.check(length: length, stride: stride, maximumPositions: maximumPositions)
        if tokenCount < 2 {
            throw EngineError(
                .emptyPrompt,
                "the text comes to \(tokenCount) token\(tokenCount == 1 ? "" : "s"); give one of 2 or more")
        }
        self.tokenCount = tokenCount
        self.length = min(length ?? maximumPositions, tokenCount)
        self.stride = min(stride ?? max(1, self.length / 2), self.length)
    }

    /// Whether windows of this kind can be, whatever the text is.
    public static func check(length: Int?, stride: Int?, maximumPositions: Int) throws(EngineError) {
        if let length, length < 2 {
            throw EngineError(
                .invalidOption,
                "a window of \(length) was asked for; give 2 tokens or more, so that one has context")
        }
        if let length, length > maximumPositions {
            throw EngineError(
                .positionsExceeded,
                "a window of \(length) tokens was asked for, and the model has \(maximumPositions) positions")
        }
        let most = length ?? maximumPositions
        if let stride, !(1...most ~= stride) {
            throw EngineError(
                .invalidOption,
                "a stride of \(stride) was asked for; give 1 to \(most), the window, so that no token is left out"
            )
        }
    }

    public struct Window: Sendable, Hashable {
        /// The window's tokens in the text.
        public var tokens: Range<Int>
        /// Those that it scores, at its end.
        public var scored: Range<Int>
    }

    public var count: Int { count(scoring: tokenCount) }

    /// The windows that it takes to score the text's first tokens.
    public func count(scoring tokenCount: Int) -> Int {
        1 + (max(0, tokenCount - length) + stride - 1) / stride
    }

    public subscript(index: Int) -> Window {
        precondition(0..<count ~= index, "SlidingWindows: window \(index) of \(count)")
        let begin = index * stride
        let end = min(begin + length, tokenCount)
        return Window(
            tokens: begin..<end, scored: (index == 0 ? begin : begin - stride + length)..<end)
    }

    /// A part of a window, which goes through the model behind the parts before it.
    public struct Pass: Sendable, Hashable {
        public var beginsWindow: Bool
        /// The text's tokens that the part's rows predict.
        public var predicted: Range<Int>
        /// Those of them that are scored, at its end.
        public var scored: Range<Int>

        /// The token in front of each of those predicted.
        func inputs(of tokens: [Int32], beginOfSequence: Int32) -> [Int32] {
            guard beginsWindow else {
                return Array(tokens[predicted.lowerBound - 1..<predicted.upperBound - 1])
            }
            return [beginOfSequence] + tokens[predicted.lowerBound..<predicted.upperBound - 1]
        }
    }

    /// A window in parts that score `rowCount` tokens at most. The context is part of the first.
    public func passes(of window: Window, rowCount: Int) -> [Pass] {
        Swift.stride(from: window.scored.lowerBound, to: window.scored.upperBound, by: rowCount).map {
            first in
            let end = min(first + rowCount, window.scored.upperBound)
            let begins = first == window.scored.lowerBound
            return Pass(
                beginsWindow: begins, predicted: (begins ? window.tokens.lowerBound : first)..<end,
                scored: first..<end)
        }
    }

    /// The parts of all windows, one behind the other.
    public func passes(rowCount: Int) -> some Sequence<Pass> {
        (0..<count).lazy.flatMap { passes(of: self[$0], rowCount: rowCount) }
    }
}
