extension Engine {
    /// A text's tokens, as the model's tokenizer has them, without a beginning-of-sequence token.
    public func tokens(of text: String) throws -> [Int32] { try encode([text])[0] }

    /// The perplexity of a text; of its first tokens where the task is cancelled in between.
    ///
    /// - Parameter progress: called after each pass with what has been scored.
    public func perplexity(
        of tokens: [Int32], in windows: SlidingWindows,
        progress: @Sendable (Perplexity) -> Void = { _ in }
    ) async throws -> Perplexity {
        try check(tokens, windows)
        let scorer = try await makeScorer(windowLength: windows.length)
        var perplexity = Perplexity()
        for pass in windows.passes(rowCount: scorer.rowCapacity) {
            if Task.isCancelled { return perplexity }
            perplexity = try await scorer.run(pass, of: tokens, into: perplexity) {
                $0.add($1, token: $2)
            }
            progress(perplexity)
        }
        return perplexity
    }

    /// Holds this engine's predictions of a text against another's, pass by pass in turns.
    ///
    /// - Parameter progress: called after each pass with what has been compared.
    public func compare(
        with reference: Engine, on tokens: [Int32], in windows: SlidingWindows,
        progress: @Sendable (PerplexityComparison) -> Void = { _ in }
    ) async throws -> PerplexityComparison {
        try checkVocabulary(of: reference)
        let first = try await reference.makeScorer(windowLength: windows.length)
        let second = try await makeScorer(windowLength: windows.length)
        return try await second.compare(with: first, on: tokens, in: windows, progress: progress)
    }

    fileprivate func checkVocabulary(of reference: Engine) throws(EngineError) {
        guard reference.configuration.vocabularySize == configuration.vocabularySize else {
            throw EngineError(
                .invalidOption,
                "\(reference.configuration.name) has \(reference.configuration.vocabularySize) tokens and "
                    + "\(configuration.name) \(configuration.vocabularySize); compare models of one vocabulary"
            )
        }
    }

    fileprivate func check(_ tokens: [Int32], _ windows: SlidingWindows) throws(EngineError) {
        precondition(
            windows.tokenCount <= tokens.count,
            "Engine: windows over \(windows.tokenCount) of \(tokens.count) tokens")
        try check([tokens])
    }
}

extension TextScorer {
    /// `Engine.compare`, in room that was made before: where both engines lie on one device, room for the windows of the
    /// first is taken before the second takes what is left.
    public func compare(
        with reference: TextScorer, on tokens: [Int32], in windows: SlidingWindows,
        progress: @Sendable (PerplexityComparison) -> Void = { _ in }
    ) async throws -> PerplexityComparison {
        try engine.checkVocabulary(of: reference.engine)
        try engine.check(tokens, windows)
        let rowCount = min(reference.rowCapacity, rowCapacity)
        let rows = HeldRows(rowCount: rowCount, width: engine.configuration.vocabularySize)
        var comparison = PerplexityComparison()
        for pass in windows.passes(rowCount: rowCount) {
            if Task.isCancelled { return comparison }
            _ = try await reference.run(pass, of: tokens, into: 0) { row, logits, _ in
                rows.hold(logits, row)
                row += 1
            }
            comparison = try await run(pass, of: tokens, into: (comparison, 0)) {
                total, logits, token in
                rows.lend(total.1) { total.0.add(reference: $0, measured: logits, token: token) }
                total.1 += 1
            }.0
            progress(comparison)
        }
        return comparison
    }
}

/// Logits of a pass that wait for another engine's: [rows, width].
private final class HeldRows: @unchecked Sendable {  // one engine writes, then the other reads, in turns
    private var values: [Float]
    private let width: Int

    init(rowCount: Int, width: Int) {
        values = Array(repeating: 0, count: rowCount * width)
        self.width = width
    }

    func hold(_ logits: Span<Float>, _ row: Int) {
        let first = row * width
        for index in logits.indices { values[first + index] = logits[index] }
    }

    func lend(_ row: Int, to body: (Span<Float>) -> Void) {
        values.withUnsafeBufferPointer {
            body(UnsafeBufferPointer(rebasing: $0[row * width..<(row + 1) * width]).span)
        }
    }
}
