import CPUKernels
import Checkpoints
import HostRuntime
import OPTModel
import Tokenization

/// A loaded model, ready for any number of sessions, which it serves one after another.
public final class Engine: Sendable {
    public struct Options: Sendable {
        /// Threads of the CPU lane; nil for one on each processor.
        public var threadCount: Int?
        /// nil for the fastest that this processor has.
        public var instructionSet: InstructionSet?
        /// The seed of random weights.
        public var randomWeightsSeed: UInt64 = 0

        public init() {}
    }

    public let configuration: OPTConfiguration
    /// nil for random weights, and where the model's folder has no tokenizer files.
    public let tokenizer: Tokenizer?
    /// What the model's folder recommends for sampling; greedy where it says nothing.
    public let defaultGenerationOptions: GenerationOptions
    public let instructionSet: InstructionSet
    /// Where the weights came from, in words.
    public let origin: String
    public let loading: LoadingReport

    let decoder: Decoder
    let leader: LeaderThread

    /// `load` has made sure that the processor has them.
    var kernels: UnsafePointer<tandem_cpu_kernels> { instructionSet.kernels! }

    public var threadCount: Int { decoder.pool.workerCount }
    public var weightByteCount: Int { decoder.weights.byteCount }
    /// The weight bytes that a decode step reads.
    public var weightByteCountPerToken: Int { decoder.weights.byteCountPerToken }

    /// Loads a model: configuration, tokenizer, weights.
    ///
    /// - Parameter progress: called now and then, on any thread, with the bytes loaded so far and in all.
    public static func load(
        _ model: ModelReference, options: Options = Options(),
        progress: @escaping @Sendable (_ loadedByteCount: Int, _ byteCount: Int) -> Void = { _, _ in }
    ) async throws -> Engine {
        let instructionSet = try options.instructionSet ?? bestInstructionSet()
        guard instructionSet.kernels != nil else {
            throw EngineError(
                .invalidOption,
                "this processor has no \(instructionSet.rawValue); choose one of "
                    + InstructionSet.available.map(\.rawValue).joined(separator: ", "))
        }
        if let count = options.threadCount, count < 1 || count > 1024 {
            throw EngineError(.invalidOption, "\(count) threads were asked for; give 1 to 1024")
        }
        let pool = WorkerPool(workerCount: options.threadCount)
        let leader = LeaderThread(pool: pool)
        return try await leader.perform {
            try Engine(
                model, options: options, instructionSet: instructionSet, pool: pool, leader: leader,
                progress: progress)
        }
    }

    private init(
        _ model: ModelReference, options: Options, instructionSet: InstructionSet, pool: WorkerPool,
        leader: LeaderThread, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws {
        let start = ContinuousClock.now
        self.instructionSet = instructionSet
        self.leader = leader
        let kernels = instructionSet.kernels!
        let weights: OPTWeights
        switch model {
        case .random(let configuration):
            self.configuration = configuration
            tokenizer = nil
            defaultGenerationOptions = GenerationOptions()
            let source = DummyWeights(
                specifications: configuration.tensorSpecifications, seed: options.randomWeightsSeed)
            origin = source.origin
            try Self.checkMemory(for: configuration)
            weights = try OPTWeights(
                configuration, from: source, pool: pool, kernels: kernels, progress: progress)
        case .folder(let folder), .weights(let folder, configurationFolder: _):
            var configurationFolder = folder
            if case .weights(_, configurationFolder: let other) = model { configurationFolder = other }
            configuration = try OPTConfiguration(folder: configurationFolder)
            if Tokenizer.exists(in: configurationFolder) {
                let tokenizer = try Tokenizer(folder: configurationFolder)
                try Self.check(tokenizer, against: configuration)
                self.tokenizer = tokenizer
            } else {
                tokenizer = nil
            }
            defaultGenerationOptions = try GenerationOptions(recommendedBy: configurationFolder)
            let source = try CheckpointFiles(folder: folder)
            origin = source.origin
            try Self.checkMemory(for: configuration)
            weights = try OPTWeights(
                configuration, from: source, pool: pool, kernels: kernels, progress: progress)
        }
        decoder = try Decoder(weights, pool: pool, kernels: kernels)
        loading = LoadingReport(
            byteCount: weights.byteCount, seconds: start.duration(to: .now).seconds)
    }

    private static func bestInstructionSet() throws -> InstructionSet {
        guard let best = InstructionSet.available.first else {
            throw EngineError(.invalidOption, "no CPU kernels were built for this processor")
        }
        return best
    }

    /// A tokenizer may be smaller than the model's vocabulary, which is often padded, but never larger.
    private static func check(_ tokenizer: Tokenizer, against configuration: OPTConfiguration) throws {
        if tokenizer.vocabularyCount > configuration.vocabularySize {
            throw EngineError(
                .invalidToken,
                "the tokenizer of \(configuration.name) has \(tokenizer.vocabularyCount) tokens, but the model's "
                    + "vocab_size is \(configuration.vocabularySize); take both from the same model")
        }
    }

    private static func checkMemory(for configuration: OPTConfiguration) throws(EngineError) {
        let needed = OPTWeights.byteCount(configuration)
        guard let available = HostMemory.availableByteCount, needed > available else { return }
        throw EngineError(
            .outOfMemory,
            "the weights of \(configuration.name) take \(gibibytes(needed)) in CPU memory, and "
                + "\(gibibytes(available)) are free; use a smaller model, or close other programs")
    }
}

/// What loading a model cost.
public struct LoadingReport: Sendable, Hashable, Codable {
    public var byteCount: Int
    public var seconds: Double
}

extension Duration {
    var seconds: Double { self / .seconds(1) }
}

/// A size for a sentence: "2.62 GiB".
func gibibytes(_ byteCount: Int) -> String {
    let hundredths = Int((Double(byteCount) / Double(1 << 30) * 100).rounded())
    let fraction = hundredths % 100
    return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction) GiB"
}
