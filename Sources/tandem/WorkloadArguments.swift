import ArgumentParser
import Engine
import FoundationEssentials
import OPTModel
import Placement

/// Random prompts of one length, and how much is generated for them; shared by the sub-commands that measure.
struct WorkloadArguments: ParsableArguments {
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

    @Option(help: "breakdown: print the time of each kind of layer and resource, at some cost of speed.")
    var debugMode: DebugMode?

    @Option(
        help: ArgumentHelp(
            "Write a timeline of computing, copying, disk and host that Perfetto and chrome://tracing open.",
            valueName: "file"))
    var trace: String?

    @Flag(
        help: ArgumentHelp(
            "Hold the figures against the bandwidths that tandem doctor remembered, which saves a second or two."
        ))
    var rememberedLimits = false

    enum DebugMode: String, ExpressibleByArgument, CaseIterable {
        case breakdown
    }

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

    /// What a placement is chosen for.
    var workload: Workload {
        Workload(batchSize: batchSize, promptLength: promptLen, generationLength: genLen)
    }

    /// Runs the prompts, between measurements of what the machine sustains.
    func run(on engine: Engine) async throws -> BenchReport {
        InterruptWatcher.install()
        let profiler = HardwareProfiler(engine)
        let session = try await makeSession(on: engine)
        // What has been done so far, but for measuring, stands between the program's start and its first token.
        let secondsBefore = ProcessAge.seconds
        let remembered = try rememberedLimits ? rememberedProfile() : nil
        var samples = remembered.map { [MachineLimits(of: $0, onGPU: engine.gpuName != nil)] } ?? []
        let sampleCount = remembered == nil ? 3 : 0
        for _ in 0..<sampleCount { samples.append(try await MachineLimits(measuredBy: profiler)) }
        let timeline = debugMode != nil || trace != nil ? try await engine.startTimeline() : nil
        if (debugMode != nil || trace != nil) && timeline == nil {
            throw ValidationError(
                "--debug-mode and --trace record what a GPU does, and the CPU computes here")
        }
        let report = try await generate(in: session)
        let spans = timeline?.spans() ?? []
        if let trace { try TraceFile(spans: spans, counts: timeline?.counts() ?? []).write(to: trace) }
        for _ in 0..<sampleCount { samples.append(try await MachineLimits(measuredBy: profiler)) }
        var result = BenchReport(
            engine: engine, generation: report, promptLength: promptLen, generationLength: genLen,
            limits: MachineLimits(medianOf: samples), ranks: try await engine.rankReports())
        result.sumCost = try await engine.sumCost(batchSize: batchSize)
        result.startToFirstTokenSeconds = secondsBefore.map { $0 + report.prefillSeconds }
        result.limitsDate = remembered?.date
        if debugMode == .breakdown { result.breakdown = Breakdown(spans).lines }
        return result
    }

    /// Runs the prompts, and nothing else.
    func generate(on engine: Engine) async throws -> GenerationReport {
        try await generate(in: try await makeSession(on: engine))
    }

    private func makeSession(on engine: Engine) async throws -> Session {
        try await engine.makeSession(capacities: Array(repeating: promptLen + genLen, count: batchSize))
    }

    private func generate(in session: Session) async throws -> GenerationReport {
        var options = GenerationOptions()
        options.maximumTokens = cutGenLen ?? genLen
        options.stopsAtEndOfSequence = false
        options.temperature = 0
        let prompts = randomPrompts(vocabularySize: session.engine.configuration.vocabularySize)
        let generation = try session.generate(tokens: prompts, options: options)
        InterruptWatcher.onInterrupt { generation.cancel() }
        do {
            for try await _ in generation {}
        } catch {
            Tandem.leave(with: error)
        }
        guard let report = generation.report, !InterruptWatcher.wasInterrupted else { InterruptWatcher.end() }
        InterruptWatcher.stopWaiting()
        return report
    }

    private func rememberedProfile() throws -> HardwareProfile {
        guard let profile = HardwareProfile.remembered() else {
            throw ValidationError(
                "--remembered-limits: nothing is remembered of this machine; run tandem doctor once, or leave it out"
            )
        }
        return profile
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
}
