import ArgumentParser
import Engine
import FoundationEssentials
import Glibc
import Synchronization

struct Generate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Continue texts.",
        discussion: """
            Prints the continuation to standard output as it is made, and statistics to standard error.

              tandem generate --prompt "Once upon a time"
              tandem generate --model facebook/opt-1.3b --prompt "Paris is" --max-tokens 20 --temperature 0
              tandem generate --prompt-file prompts.txt --json > answers.json
              echo "The old house" | tandem generate --temperature 0.8 --top-p 0.9 --seed 7 --stop "."
            """)

    @Option(
        help: ArgumentHelp(
            "A folder with a model, or a name such as facebook/opt-1.3b.", valueName: "model"))
    var model = ModelReference.bundledModelName

    @OptionGroup var input: PromptInput
    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Sampling") var sampling: SamplingArguments
    @OptionGroup(title: "Several processes") var processes: GroupArguments

    @Option(
        name: [.customLong("batch-size"), .customLong("gpu-batch-size")],
        help: ArgumentHelp("Prompts that are continued at the same time; all by default.", valueName: "count")
    )
    var batchSize: Int?

    @Flag(help: "Print one JSON document at the end instead of text.")
    var json = false

    @Flag(help: "Print the prompt in front of its continuation.")
    var echo = false

    @Flag(name: .shortAndLong, help: "No statistics and no progress on standard error.")
    var quiet = false

    func validate() throws {
        if let batchSize, batchSize < 1 {
            throw ValidationError("the batch size is \(batchSize); give 1 or more")
        }
    }

    func run() async throws {
        var engineOptions = try placement.engineOptions(modelArguments.engineOptions)
        let isConductor = try await modelArguments.join(
            processes, model, placement: placement, options: &engineOptions)
        if !isConductor { return }
        InterruptWatcher.install()
        let prompts = try input.read()
        let engine = try await modelArguments.load(
            model, options: engineOptions, isQuiet: quiet, isVerbose: processes.verbose)
        let options = sampling.options(over: engine.defaultGenerationOptions)
        let work = Mutex(
            Work(printer: CompletionPrinter(prompts: prompts, echoes: echo, isSilent: json), reports: []))
        InterruptWatcher.beforeLeavingStep {
            // Text is being printed where it is not, or nobody reads it.
            work.withLockIfAvailable {
                $0.printer.cancel()
                try? finish($0, engine)
            }
        }
        let batchSize = batchSize ?? prompts.count
        for first in stride(from: 0, to: prompts.count, by: batchSize) {
            if InterruptWatcher.wasInterrupted { break }
            let batch = Array(prompts[first..<min(first + batchSize, prompts.count)])
            let generation = try await engine.generate(batch, options: options)
            InterruptWatcher.onInterrupt { generation.cancel() }
            do {
                for try await piece in generation {
                    work.withLock { $0.printer.take(piece, firstPrompt: first) }
                }
            } catch {
                work.withLock { $0.printer.finish() }
                Tandem.leave(with: error)
            }
            if let report = generation.report { work.withLock { $0.reports.append(report) } }
        }
        try work.withLock { try finish($0, engine) }
        if !quiet {
            let reports = work.withLock(\.reports)
            printStatistics(engine, reports)
            if try placement.computesCacheOnCPU, let line = engine.cacheComputationLine {
                writeToStandardError(line + "\n")
            }
        }
        if InterruptWatcher.wasInterrupted { InterruptWatcher.end() }
    }

    /// What has been done so far.
    private struct Work: Sendable {
        var printer: CompletionPrinter
        var reports: [GenerationReport]
    }

    private func finish(_ work: Work, _ engine: Engine) throws {
        work.printer.finish()
        if json { try printDocument(engine, work.printer.completions, work.reports) }
    }

    private func printDocument(
        _ engine: Engine, _ completions: [Completion], _ reports: [GenerationReport]
    ) throws {
        struct Document: Encodable {
            var model: String
            var completions: [Completion]
            var reports: [GenerationReport]
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        let document = Document(model: engine.configuration.name, completions: completions, reports: reports)
        writeToStandardOutput(String(decoding: try encoder.encode(document), as: UTF8.self) + "\n")
    }

    private func printStatistics(_ engine: Engine, _ reports: [GenerationReport]) {
        let prompt = reports.reduce(0) { $0 + $1.promptTokenCount }
        let generated = reports.reduce(0) { $0 + $1.generatedTokenCount }
        let prefill = reports.reduce(0) { $0 + $1.prefillSeconds }
        let decode = reports.reduce(0) { $0 + $1.decodeSeconds }
        let stepCount = reports.reduce(0) { $0 + $1.stepSeconds.count }
        var place = engine.gpuName ?? "\(engine.threadCount) threads, \(engine.instructionSet.rawValue)"
        if let group = engine.group { place = "\(group.place.size) ranks, each \(place)" }
        var line = "\n\(engine.configuration.name), \(place): "
        line +=
            "\(prompt) prompt tokens in \(prefill.formatted(decimals: 3)) s"
        line += ", \(generated) generated in \((prefill + decode).formatted(decimals: 3)) s"
        if stepCount > 0 {
            line += " (\((decode / Double(stepCount) * 1e3).formatted(decimals: 2)) ms/token"
            let reductions = reports.compactMap(\.decodeReduceSeconds)
            if !reductions.isEmpty {
                let mean = reductions.reduce(0, +) / Double(stepCount) * 1e3
                line += ", \(mean.formatted(decimals: 2)) ms of it in all-reduces"
            }
            line += ")"
        }
        let choice = engine.compression?.reportLines ?? []
        writeToStandardError(([line] + choice).joined(separator: "\n") + "\n")
    }
}
