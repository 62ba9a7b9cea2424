import ArgumentParser
import Engine
import FoundationEssentials
import OPTModel

struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure prefill and decode, and hold them against what the machine sustains.",
        discussion: """
            Runs random prompts through a model, with random weights where no other are given, and measures the
            limits in the same run: a plain read loop over the same weights, the peak of fused multiply-adds, and
            the meeting of all threads.

              tandem bench --model facebook/opt-1.3b
              tandem bench --model facebook/opt-125m --gpu-batch-size 8 --prompt-len 128 --gen-len 64 --json
            """)

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-1.3b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments

    @Option(help: ArgumentHelp("Tokens of each prompt.", valueName: "count"))
    var promptLen = 512

    @Option(help: ArgumentHelp("Tokens to generate for each prompt.", valueName: "count"))
    var genLen = 32

    @Option(
        help: ArgumentHelp(
            "Stop after so many tokens and project the report to --gen-len.", valueName: "count"))
    var cutGenLen: Int?

    @Option(
        name: [.customLong("gpu-batch-size"), .customLong("batch-size")],
        help: ArgumentHelp("Prompts at the same time.", valueName: "count"))
    var batchSize = 1

    @Option(help: "The seed of random prompts.")
    var seed: UInt64 = 0

    @Flag(help: "Print the report as JSON.")
    var json = false

    func validate() throws {
        for (name, value) in [
            ("--prompt-len", promptLen), ("--gen-len", genLen), ("--gpu-batch-size", batchSize),
            ("--cut-gen-len", cutGenLen ?? 1),
        ] where value < 1 {
            throw ValidationError("\(name) is \(value); give 1 or more")
        }
        if let cutGenLen, cutGenLen > genLen {
            throw ValidationError("--cut-gen-len \(cutGenLen) is more than --gen-len \(genLen)")
        }
    }

    func run() async throws {
        InterruptWatcher.install()
        let engine = try await modelArguments.load(
            model, defaultPath: ModelReference.randomWeightsPath, isQuiet: json)
        var options = GenerationOptions()
        options.maximumTokens = cutGenLen ?? genLen
        options.stopsAtEndOfSequence = false
        let prompts = randomPrompts(vocabularySize: engine.configuration.vocabularySize)

        let profiler = HardwareProfiler(engine)
        let session = try await engine.makeSession(
            capacities: Array(repeating: promptLen + genLen, count: batchSize))
        var samples: [MachineLimits] = []
        for _ in 0..<3 { samples.append(try await measureLimits(profiler)) }
        let generation = try session.generate(tokens: prompts, options: options)
        InterruptWatcher.onInterrupt { generation.cancel() }
        for try await _ in generation {}
        guard let report = generation.report, !InterruptWatcher.wasInterrupted else { throw ExitCode(130) }
        for _ in 0..<3 { samples.append(try await measureLimits(profiler)) }
        let result = BenchReport(
            engine: engine, generation: report, promptLength: promptLen, generationLength: genLen,
            limits: MachineLimits(medianOf: samples))
        if json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            writeToStandardOutput(String(decoding: try encoder.encode(result), as: UTF8.self) + "\n")
        } else {
            writeToStandardOutput(result.text)
        }
    }

    /// Tokens that any vocabulary has, none of them special.
    private func randomPrompts(vocabularySize: Int) -> [[Int32]] {
        var state = seed
        func next() -> Int32 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let first = min(4, vocabularySize - 1)
            return Int32(first + Int(state >> 33) % (vocabularySize - first))
        }
        return (0..<batchSize).map { _ in (0..<promptLen).map { _ in next() } }
    }

    private func measureLimits(_ profiler: HardwareProfiler) async throws -> MachineLimits {
        MachineLimits(
            readBytesPerSecond: try await profiler.readRate(),
            fastestReadBytesPerSecond: try await profiler.fastestReadRate(),
            multiplyAddOperationsPerSecond: try await profiler.multiplyAddPeak(),
            barrierSeconds: try await profiler.barrierSeconds())
    }
}
