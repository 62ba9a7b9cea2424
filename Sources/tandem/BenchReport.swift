import Engine
import OPTModel

/// What the machine sustained, measured in the run that it is compared with.
struct MachineLimits: Codable {
    /// A plain loop over the weights, in the order of memory.
    var readBytesPerSecond: Double
    /// Several streams side by side.
    var fastestReadBytesPerSecond: Double
    var multiplyAddOperationsPerSecond: Double
    var barrierSeconds: Double
}

extension MachineLimits {
    init(medianOf samples: [MachineLimits]) {
        func median(_ value: (MachineLimits) -> Double) -> Double {
            samples.map(value).sorted()[samples.count / 2]
        }
        self.init(
            readBytesPerSecond: median(\.readBytesPerSecond),
            fastestReadBytesPerSecond: median(\.fastestReadBytesPerSecond),
            multiplyAddOperationsPerSecond: median(\.multiplyAddOperationsPerSecond),
            barrierSeconds: median(\.barrierSeconds))
    }
}

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

    var prefillSeconds: Double
    var decodeSeconds: Double
    var totalSeconds: Double { prefillSeconds + decodeSeconds }
    var prefillTokensPerSecond: Double
    var decodeTokensPerSecond: Double
    var totalTokensPerSecond: Double
    var stepMillisecondsP50: Double?
    var stepMillisecondsP99: Double?

    var weightBytesPerStep: Int
    var keyValueBytesPerStep: Int
    var limits: MachineLimits
    var decodeBytesPerSecond: Double?
    var prefillOperationsPerSecond: Double

    /// Bytes a second in decode over the plain read loop's.
    var decodeShareOfReadRate: Double? { decodeBytesPerSecond.map { $0 / limits.readBytesPerSecond } }
    /// Operations a second in prefill over the peak.
    var prefillShareOfPeak: Double { prefillOperationsPerSecond / limits.multiplyAddOperationsPerSecond }

    init(
        engine: Engine, generation: GenerationReport, promptLength: Int, generationLength: Int,
        limits: MachineLimits
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
        modelBytes = engine.weightByteCount
        cacheBytes = generation.keyValueCacheByteCount
        hiddenBytes = batchSize * (promptLength + generationLength) * configuration.hiddenSize * 2
        peakMemoryBytes = HostMemory.peakResidentByteCount
        loadingSeconds = engine.loading.seconds
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
        weightBytesPerStep = engine.weightByteCountPerToken
        keyValueBytesPerStep = steps.isEmpty ? 0 : generation.keyValueReadByteCount / steps.count
        self.limits = limits
        decodeBytesPerSecond =
            steps.isEmpty ? nil : Double(weightBytesPerStep + keyValueBytesPerStep) / meanStep
        prefillOperationsPerSecond =
            configuration.prefillOperationCount(promptLength: promptLength) * Double(batchSize)
            / prefillSeconds
    }

    var text: String {
        func gigabytes(_ count: Int) -> String {
            (Double(count) / Double(1 << 30)).formatted(decimals: 3) + " GiB"
        }
        func percent(_ share: Double) -> String { (share * 100).formatted(decimals: 1) + " %" }
        var lines = [
            "model \(model): \(gigabytes(modelBytes))   cache: \(gigabytes(cacheBytes))   "
                + "hidden (prefill): \(gigabytes(hiddenBytes))",
            "batch \(batchSize), prompt \(promptLength), generate \(generationLength); \(threads) threads, "
                + instructionSet,
            "peak CPU memory: \(peakMemoryBytes.map(gigabytes) ?? "unknown")   peak GPU memory: 0.000 GiB",
            "loading: \(loadingSeconds.formatted(decimals: 3)) s "
                + "(\((Double(modelBytes) / loadingSeconds / 1e9).formatted(decimals: 2)) GB/s)",
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
        if measuredSteps < generationLength - 1 {
            lines.append("projected from \(measuredSteps) of \(generationLength - 1) decode steps")
        }
        if let decodeBytesPerSecond, let decodeShareOfReadRate {
            lines.append(
                "decode reads \(((Double(weightBytesPerStep) / 1e9)).formatted(decimals: 3)) GB of weights and "
                    + "\((Double(keyValueBytesPerStep) / 1e9).formatted(decimals: 3)) GB of cache a step: "
                    + "\((decodeBytesPerSecond / 1e9).formatted(decimals: 2)) GB/s, "
                    + "\(percent(decodeShareOfReadRate)) of the plain read loop's "
                    + "\((limits.readBytesPerSecond / 1e9).formatted(decimals: 2)) GB/s, "
                    + "\(percent(decodeBytesPerSecond / limits.fastestReadBytesPerSecond)) of the fastest loop's "
                    + "\((limits.fastestReadBytesPerSecond / 1e9).formatted(decimals: 2)) GB/s")
        }
        lines.append(
            "prefill computes \((prefillOperationsPerSecond / 1e9).formatted(decimals: 1)) GFLOP/s, "
                + "\(percent(prefillShareOfPeak)) of the measured peak of "
                + "\((limits.multiplyAddOperationsPerSecond / 1e9).formatted(decimals: 1)) GFLOP/s")
        lines.append("meeting of all threads: \((limits.barrierSeconds * 1e6).formatted(decimals: 2)) µs")
        return lines.joined(separator: "\n") + "\n"
    }
}
