import OPTModel

/// A sequence of an engine's in which windows of texts are scored, some rows at a time.
///
/// Logits of a whole window would take 411 MB with OPT's vocabulary and 2048 positions. A pass gives those of at most
/// `rowCapacity` rows, 51 MB, over the cache of what came before, and they are lent while its caller reads them. So two
/// engines can be held against each other pass by pass (`Engine.compare`).
public final class TextScorer: Sendable {
    public let engine: Engine
    /// The most tokens that a pass scores.
    public let rowCapacity: Int
    private let state: DecoderState

    /// As many as a GPU lane has room for; passes of more rows are not faster where the weights lie on the device.
    static let mostRows = 256

    fileprivate init(engine: Engine, rowCapacity: Int, state: DecoderState) {
        self.engine = engine
        self.rowCapacity = rowCapacity
        self.state = state
    }

    /// Runs a pass and calls `add` for each token that it scores, in order, on the engine's leader thread.
    ///
    /// Passes of a window come in order; the first forgets the window before.
    /// - Parameter add: gets the logits, [vocabulary], of the position in front of the token.
    /// - Returns: what `add` made of `total`.
    public func run<Total: Sendable>(
        _ pass: SlidingWindows.Pass, of tokens: [Int32], into total: Total,
        _ add: @escaping @Sendable (_ total: inout Total, _ logits: Span<Float>, _ token: Int32) -> Void
    ) async throws -> Total {
        let inputs = pass.inputs(of: tokens, beginOfSequence: engine.configuration.beginOfSequence)
        let scored = tokens[pass.scored]
        return try await engine.leader.perform { [self] in
            var total = total
            if pass.beginsWindow { state.truncate(0, to: 0) }
            try engine.decoder.append(inputs, logitsCount: scored.count, to: 0, state: state) { logits in
                let width = engine.configuration.vocabularySize
                for (row, token) in scored.enumerated() {
                    add(&total, logits.span.extracting(row * width..<(row + 1) * width), token)
                }
            }
            return total
        }
    }
}

extension Engine {
    /// Makes room for windows of so many tokens.
    public func makeScorer(windowLength: Int) async throws -> TextScorer {
        let rowCapacity = min(TextScorer.mostRows, decoder.lane.logitsCapacity, windowLength)
        try checkCapacities([windowLength], logitsCount: rowCapacity)
        return try await leader.perform { [self] in
            let state = try decoder.makeState(capacities: [windowLength], logitsCount: rowCapacity)
            return TextScorer(engine: self, rowCapacity: rowCapacity, state: state)
        }
    }
}
