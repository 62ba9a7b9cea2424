import ArgumentParser
import Engine
import Placement

struct PerplexityCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "perplexity",
        abstract: "Measure how well a model predicts a text.",
        discussion: """
            Scores every token of a text once, by windows that slide over it: each gives its last tokens the others as
            context. The perplexity is exp of the mean of -log p; the number behind ± is its standard error.

              tandem perplexity --model facebook/opt-1.3b --file text.txt
              tandem perplexity --file text.txt --window 512 --stride 512 --json
              tandem perplexity --file text.txt --compress-weight --against fp16
            """)

    @Option(
        help: ArgumentHelp(
            "A folder with a model, or a name such as facebook/opt-1.3b.", valueName: "model"))
    var model = ModelReference.bundledModelName

    @Option(help: ArgumentHelp("The text, in UTF-8.", valueName: "file"))
    var file: String

    @Option(
        help: ArgumentHelp(
            "Tokens of a window; as many as the model has positions by default.", valueName: "count"))
    var window: Int?

    @Option(
        help: ArgumentHelp(
            "Tokens between the beginnings of windows, each with the rest of its window as context; half of the window by "
                + "default.", valueName: "count"))
    var stride: Int?

    @Option(help: ArgumentHelp("Score no more than the text's first tokens.", valueName: "count"))
    var maxTokens: Int?

    @Option(
        help: ArgumentHelp(
            "Hold the predictions against another model's, which is loaded beside this one: fp16 for the same without "
                + "compression, or a folder. Limits of memory are each of the two's.", valueName: "model"))
    var against: String?

    @Option(help: "What computes the model of --against; as --device by default.")
    var againstDevice: Engine.Processor?

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Several processes") var processes: GroupArguments

    @Flag(help: "Print the report as JSON.")
    var json = false

    @Flag(name: .shortAndLong, help: "No progress on standard error.")
    var quiet = false

    func validate() throws {
        if let maxTokens, maxTokens < 2 {
            throw ValidationError("--max-tokens is \(maxTokens); give 2 or more")
        }
        if let againstDevice, against == nil {
            throw ValidationError(
                "--against-device \(againstDevice.rawValue) is for the model of --against; give that, too")
        }
        if try against != nil && processes.hasOthers {
            throw ValidationError("--against holds two models of one process against each other; start one")
        }
    }

    func run() async throws {
        var options = try placement.engineOptions(modelArguments.engineOptions)
        let measured = try modelArguments.reference(model)
        var positions = try measured.configuration.maximumPositions
        // One pass after another, and nothing is generated: what a placement is chosen for has at least a token.
        options.expectedWorkload = Workload(
            batchSize: 1, promptLength: max(1, min(window ?? positions, positions) - 1), generationLength: 1)
        let isConductor = try await modelArguments.join(
            processes, model, placement: placement, options: &options)
        if !isConductor { return }
        InterruptWatcher.install()
        // What can be refused is, before a large model is loaded.
        let reference = try against.map {
            try PerplexityReference($0, of: measured, options: options, device: againstDevice)
        }
        positions = min(positions, reference?.configuration.maximumPositions ?? positions)
        try SlidingWindows.check(length: window, stride: stride, maximumPositions: positions)
        let text = try readText()
        let engine = try await modelArguments.load(
            model, options: options, isQuiet: quiet || json, isVerbose: processes.verbose)
        let tokens = try engine.tokens(of: text)
        let windows = try SlidingWindows(
            tokenCount: min(tokens.count, maxTokens ?? tokens.count), length: window, stride: stride,
            maximumPositions: positions)
        let report: PerplexityReport
        if let reference {
            report = try await compare(engine, with: reference, on: text, tokens, windows)
        } else {
            report = try await measure(tokens, windows, on: engine)
        }
        writeToStandardOutput(json ? try report.json() : report.text)
        if InterruptWatcher.wasInterrupted { InterruptWatcher.end() }
    }

    private func readText() throws -> String {
        let bytes = try TextFile.bytes(file, what: "the text")
        if bytes.isEmpty {
            throw EngineError(.emptyPrompt, "\(file) is empty; give a text of 2 tokens or more")
        }
        return try TextFile.text(of: bytes, name: file)
    }

    private func measure(_ tokens: [Int32], _ windows: SlidingWindows, on engine: Engine) async throws
        -> PerplexityReport
    {
        let (perplexity, seconds) = try await scored(windows) { update in
            try await engine.perplexity(of: tokens, in: windows, progress: update)
        }
        return PerplexityReport(
            engine: engine, perplexity, windows, seconds: seconds, ranks: try await engine.rankReports())
    }

    private func compare(
        _ engine: Engine, with reference: PerplexityReference, on text: String, _ tokens: [Int32],
        _ windows: SlidingWindows
    ) async throws -> PerplexityReport {
        let isQuiet = quiet || json
        let scorer = try await engine.makeScorer(windowLength: windows.length)
        let bar = ProgressBar(
            label: "loading \(reference.label)", isVisible: !isQuiet && ProgressBar.isTerminal)
        let other = try await reference.load(
            notice: { if !isQuiet { writeToStandardError($0 + "\n") } }, progress: { bar.update($0, of: $1) })
        bar.finish()
        try PerplexityReference.check(other, reads: text, as: tokens)
        let otherScorer = try await other.makeScorer(windowLength: windows.length)
        let (comparison, seconds) = try await scored(windows) { update in
            try await scorer.compare(with: otherScorer, on: tokens, in: windows) { update($0.measured) }
        }
        var report = PerplexityReport(
            engine: engine, comparison.measured, windows, seconds: seconds, ranks: [])
        report.comparison = PerplexityReport.Comparison(comparison, with: other)
        return report
    }

    /// What `score` comes to, and the seconds that it takes; Ctrl-C ends it early.
    private func scored<Result: Sendable>(
        _ windows: SlidingWindows,
        _ score:
            @escaping @Sendable (_ update: @escaping @Sendable (Perplexity) -> Void) async throws -> Result
    ) async throws -> (Result, seconds: Double) {
        let start = ContinuousClock.now
        let line = ScoringLine(tokenCount: windows.tokenCount, isVisible: !quiet && !json)
        let scoring = Task { try await score(line.update) }
        InterruptWatcher.onInterrupt { scoring.cancel() }
        do {
            let result = try await scoring.value
            line.finish()
            return (result, start.duration(to: .now) / .seconds(1))
        } catch {
            Tandem.leave(with: error)
        }
    }
}

/// A line on standard error that shows what has been scored.
private struct ScoringLine: Sendable {
    let tokenCount: Int
    let isVisible: Bool

    init(tokenCount: Int, isVisible: Bool) {
        self.tokenCount = tokenCount
        self.isVisible = isVisible && ProgressBar.isTerminal
    }

    @Sendable func update(_ perplexity: Perplexity) {
        if !isVisible { return }
        writeToStandardError(
            "\r\(perplexity.tokenCount) of \(tokenCount) tokens, perplexity \(perplexity.value.formatted(decimals: 2)) "
        )
    }

    func finish() {
        if isVisible { writeToStandardError("\r\u{1B}[K") }
    }
}
