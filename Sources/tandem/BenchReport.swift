import Engine
import FoundationEssentials
import OPTModel
import Placement

/// FlexGen's report, and what it lacks: times per token, bytes moved, and how near to its limits the machine was.
struct BenchReport: Codable {
    var model: String
    var threads: Int
    var instructionSet: String
    var batchSize: Int
    var promptLength: Int
    var generationLength: Int
    /// The decode steps that were run; fewer than the generation length asks for where it was cut.
    var measuredSteps: Int

    var modelBytes: Int
    var cacheBytes: Int
    /// One layer's activations of the whole batch at full length, in fp16, as FlexGen counts them.
    var hiddenBytes: Int
    var peakMemoryBytes: Int?
    var loadingSeconds: Double
    var loadingPhases: [LoadingReport.Phase]
    /// From the program's start to the first token, the measurements left out.
    var startToFirstTokenSeconds: Double?
    /// When the limits were measured, where they were not in this run.
    var limitsDate: String?

    var prefillSeconds: Double
    var decodeSeconds: Double
    var totalSeconds: Double { prefillSeconds + decodeSeconds }
    var prefillTokensPerSecond: Double
    var decodeTokensPerSecond: Double
    var totalTokensPerSecond: Double
    var stepMillisecondsP50: Double?
    var stepMillisecondsP99: Double?

    /// Every decode step, and when the first began in seconds since 1970.
    var stepMilliseconds: [Double]
    var decodeStart: Double

    var weightBytesPerStep: Int
    var keyValueBytesPerStep: Int
    var limits: MachineLimits
    /// What a decode step moves, by resource.
    var resources: [ResourceUse]
    var prefillOperationsPerSecond: Double
    /// The GPU, where it computes.
    var gpu: String?
    var peakGPUMemoryBytes: Int?
    /// What was expected, from what is remembered of the machine; nil where nothing is.
    var predictedPrefillSeconds: Double?
    var predictedStepMilliseconds: Double?
    /// With what CPU memory gave in this run instead; nil where the CPU computes nothing beside a GPU.
    var predictedAtLimitsMilliseconds: Double?
    /// How the split of every MLP between streaming and the CPU has moved; nil where it stayed.
    var rebalancing: Rebalancing?
    /// The time of each kind of layer and resource, where it was recorded.
    var breakdown: [String] = []
    /// How the form of weights and cache was chosen; empty where it was given.
    var compressionChoice: [String]
    /// Where everything lies, asked and got; empty where the CPU computes alone.
    var placement: [String]
    /// What each process has; empty where there is but one.
    var ranks: [RankReport] = []
    /// What rank 0 spends of a decode step in all-reduces; nil where nobody measures it.
    var allReduceMillisecondsPerStep: Double?
    /// What one of them costs alone, where GPUs do them.
    var sumCost: Engine.SumCost?

    init(
        engine: Engine, generation: GenerationReport, promptLength: Int, generationLength: Int,
        limits: MachineLimits, ranks: [RankReport] = []
    ) {
        let configuration = engine.configuration
        let batchSize = generation.promptTokenCounts.count
        let steps = generation.stepSeconds
        model = configuration.name
        threads = engine.threadCount
        instructionSet = engine.instructionSet.rawValue
        self.batchSize = batchSize
        self.promptLength = promptLength
        self.generationLength = generationLength
        measuredSteps = steps.count
        self.ranks = ranks
        allReduceMillisecondsPerStep = generation.reduceSecondsPerStep.map { $0 * 1e3 }
        modelBytes = ranks.isEmpty ? engine.weightByteCount : ranks.reduce(0) { $0 + $1.weightByteCount }
        cacheBytes = generation.keyValueCacheByteCount
        hiddenBytes = batchSize * (promptLength + generationLength) * configuration.hiddenSize * 2
        peakMemoryBytes = HostMemory.peakResidentByteCount
        loadingSeconds = engine.loading.seconds
        loadingPhases = engine.loading.phases
        prefillSeconds = generation.prefillSeconds
        let meanStep = steps.isEmpty ? 0 : generation.decodeSeconds / Double(steps.count)
        decodeSeconds = meanStep * Double(generationLength - 1)
        let total = prefillSeconds + decodeSeconds
        prefillTokensPerSecond = Double(batchSize * promptLength) / prefillSeconds
        decodeTokensPerSecond =
            decodeSeconds > 0 ? Double(batchSize * (generationLength - 1)) / decodeSeconds : 0
        totalTokensPerSecond = Double(batchSize * generationLength) / total
        stepMillisecondsP50 = generation.stepSeconds(quantile: 0.5).map { $0 * 1e3 }
        stepMillisecondsP99 = generation.stepSeconds(quantile: 0.99).map { $0 * 1e3 }
        stepMilliseconds = steps.map { ($0 * 1e6).rounded() / 1e3 }
        decodeStart = generation.decodeStart
        weightBytesPerStep = engine.weightByteCountPerToken
        keyValueBytesPerStep = steps.isEmpty ? 0 : generation.keyValueReadByteCount / steps.count
        self.limits = limits
        gpu = engine.gpuName
        peakGPUMemoryBytes = engine.usedGPUByteCount
        let workload = Workload(
            batchSize: batchSize, promptLength: promptLength, generationLength: generationLength)
        if let prediction = engine.prediction(for: workload) {
            predictedPrefillSeconds = prediction.prefill.seconds
            predictedStepMilliseconds = prediction.decodeStep.seconds * 1e3
        }
        if engine.usesCPU, let remembered = HardwareProfile.remembered() {
            predictedAtLimitsMilliseconds = engine.prediction(
                for: workload, on: limits.applied(to: remembered)
            )
            .map { $0.decodeStep.seconds * 1e3 }
        }
        compressionChoice = engine.compression?.reportLines ?? []
        placement =
            (engine.plan == nil ? [] : ["chosen by the planner, for \(engine.threadCount) threads:"])
            + (engine.placement?.reportLines ?? []) + [engine.cacheComputationLine].compactMap { $0 }
        if let placement = engine.placement {
            let traffic = DecodeTraffic(
                placement, weights: weightBytesPerStep, cache: keyValueBytesPerStep,
                computesCacheOnCPU: engine.computesCacheOnCPU,
                movedNeurons: engine.rebalancing.map {
                    $0.mean - Double(placement.mlp.gpuComputed.upperBound)
                } ?? 0)
            rebalancing = engine.rebalancing
            resources = [
                ResourceUse(
                    "GPU memory", bytesPerStep: traffic.gpuMemory, stepSeconds: meanStep,
                    sustained: limits.gpuReadBytesPerSecond),
                ResourceUse(
                    "PCIe to the GPU", bytesPerStep: traffic.pcie, stepSeconds: meanStep,
                    sustained: limits.uploadBytesPerSecond),
                ResourceUse(
                    "CPU memory", bytesPerStep: traffic.cpuMemory, stepSeconds: meanStep,
                    sustained: limits.readBytesPerSecond),
                // Of interest where both of them take from CPU memory at the same time.
                traffic.cpuMemory > 0
                    ? ResourceUse(
                        "CPU memory and PCIe together", bytesPerStep: traffic.cpuMemory + traffic.pcie,
                        stepSeconds: meanStep, sustained: limits.togetherBytesPerSecond) : nil,
                ResourceUse(
                    "disk", bytesPerStep: traffic.disk, stepSeconds: meanStep,
                    sustained: limits.diskReadBytesPerSecond),
            ].compactMap { $0 }
        } else {
            resources = [
                ResourceUse(
                    "CPU memory", bytesPerStep: weightBytesPerStep + keyValueBytesPerStep,
                    stepSeconds: meanStep,
                    sustained: limits.readBytesPerSecond)
            ].compactMap { $0 }
        }
        prefillOperationsPerSecond =
            configuration.prefillOperationCount(promptLength: promptLength) * Double(batchSize)
            / prefillSeconds
    }

    /// The mean of all decode steps.
    private var meanStepMilliseconds: Double? {
        generationLength > 1 ? decodeSeconds / Double(generationLength - 1) * 1e3 : nil
    }

    var text: String {
        func size(_ count: Int) -> String { count.byteSize(decimals: 3) }
        func percent(_ share: Double) -> String { (share * 100).formatted(decimals: 1) + " %" }
        var lines =
            compressionChoice + placement + [
                "model \(model): \(size(modelBytes))   cache: \(size(cacheBytes))   "
                    + "hidden (prefill): \(size(hiddenBytes))",
                "batch \(batchSize), prompt \(promptLength), generate \(generationLength); "
                    + (ranks.isEmpty ? "" : "\(ranks.count) ranks, each ")
                    + (gpu ?? "\(threads) threads, \(instructionSet)"),
                "peak CPU memory: \(peakMemoryBytes.map(size) ?? "unknown")   "
                    + "peak GPU memory: \(size(peakGPUMemoryBytes ?? 0))",
                "loading: \(loadingSeconds.formatted(decimals: 3)) s "
                    + "(\((Double(modelBytes) / loadingSeconds / 1e9).formatted(decimals: 2)) GB/s)",
                "loading took: "
                    + loadingPhases.map { "\($0.name) \($0.seconds.formatted(decimals: 3)) s" }.joined(
                        separator: ", "),
                "prefill latency: \(prefillSeconds.formatted(decimals: 3)) s   "
                    + "prefill throughput: \(prefillTokensPerSecond.formatted(decimals: 3)) token/s",
                "decode latency: \(decodeSeconds.formatted(decimals: 3)) s   "
                    + "decode throughput: \(decodeTokensPerSecond.formatted(decimals: 3)) token/s",
                "total latency: \(totalSeconds.formatted(decimals: 3)) s   "
                    + "total throughput: \(totalTokensPerSecond.formatted(decimals: 3)) token/s",
                "time to first token: \((prefillSeconds * 1e3).formatted(decimals: 1)) ms",
            ]
        if let stepMillisecondsP50, let stepMillisecondsP99 {
            lines.append(
                "per token: p50 \(stepMillisecondsP50.formatted(decimals: 2)) ms   "
                    + "p99 \(stepMillisecondsP99.formatted(decimals: 2)) ms")
        }
        if let allReduceMillisecondsPerStep {
            lines.append(
                "all-reduces: \(allReduceMillisecondsPerStep.formatted(decimals: 3)) ms a token, waiting for the slowest rank "
                    + "included")
        }
        if let sumCost {
            let milliseconds = sumCost.seconds * Double(sumCost.countPerStep) * 1e3
            lines.append(
                "one all-reduce of \((Double(sumCost.byteCount) / 1024).formatted(decimals: 0)) KB: "
                    + "\((sumCost.seconds * 1e6).formatted(decimals: 2)) µs, \(sumCost.way); "
                    + "\(sumCost.countPerStep) of them are \(milliseconds.formatted(decimals: 3)) ms a token")
        }
        lines += ranks.map(\.line)
        if let predictedPrefillSeconds, let predictedStepMilliseconds {
            var line =
                "predicted: prefill \(predictedPrefillSeconds.formatted(decimals: 3)) s, a token "
                + "\(predictedStepMilliseconds.formatted(decimals: 2)) ms"
            if let meanStepMilliseconds {
                let off = 100 * (meanStepMilliseconds / predictedStepMilliseconds - 1)
                line +=
                    "; measured \(meanStepMilliseconds.formatted(decimals: 2)) ms, \(abs(off).formatted(decimals: 1)) % "
                    + (off < 0 ? "less" : "more")
            }
            if let predictedAtLimitsMilliseconds {
                line += "; at this run's rates \(predictedAtLimitsMilliseconds.formatted(decimals: 2)) ms"
            }
            lines.append(line)
        }
        if let rebalancing {
            lines.append(
                "rebalanced: the GPU computed \(rebalancing.first) of \(rebalancing.neuronCount) neurons of every layer in "
                    + "the first step, \(rebalancing.last) in the last, \(rebalancing.least) to \(rebalancing.most) in "
                    + "between; moved \(rebalancing.moveCount) times")
        }
        if let limitsDate { lines.append("limits: as remembered from \(limitsDate)") }
        if let startToFirstTokenSeconds {
            lines.append(
                "from the program's start to the first token: "
                    + "\(startToFirstTokenSeconds.formatted(decimals: 3)) s, measurements left out")
        }
        if measuredSteps < generationLength - 1 {
            lines.append("projected from \(measuredSteps) of \(generationLength - 1) decode steps")
        }
        for use in resources {
            lines.append(
                "decode moves \((Double(use.bytesPerStep) / 1e9).formatted(decimals: 3)) GB a step through "
                    + "\(use.resource): \((use.bytesPerSecond / 1e9).formatted(decimals: 2)) GB/s, "
                    + "\(percent(use.shareOfSustained)) of the "
                    + "\((use.sustainedBytesPerSecond / 1e9).formatted(decimals: 2)) GB/s that "
                    + (use.resource.hasSuffix("together")
                        ? "both sustain alone" : "a plain read loop sustains"))
        }
        if let fastest = limits.fastestReadBytesPerSecond {
            lines.append("the fastest read loop: \((fastest / 1e9).formatted(decimals: 2)) GB/s")
        }
        var prefill = "prefill computes \((prefillOperationsPerSecond / 1e9).formatted(decimals: 1)) GFLOP/s"
        if let peak = limits.multiplyAddOperationsPerSecond {
            prefill += ", \(percent(prefillOperationsPerSecond / peak)) of the measured peak of "
            prefill += "\((peak / 1e9).formatted(decimals: 1)) GFLOP/s"
        }
        lines.append(prefill)
        if let barrier = limits.barrierSeconds {
            lines.append("meeting of all threads: \((barrier * 1e6).formatted(decimals: 2)) µs")
        }
        lines += breakdown
        return lines.joined(separator: "\n") + "\n"
    }

    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }
}
