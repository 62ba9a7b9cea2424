import CPUKernels
import Checkpoints
import HostRuntime
import OPTModel
import Placement
import SystemPackage
import TensorCore
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
        /// What computes: the GPU where there is one, unless said otherwise.
        public var computesOn: Processor = .automatic
        /// Where weights and cache lie and who computes; nil to let it be chosen.
        public var placement: PlacementRequest?
        /// What is aimed at where it is chosen.
        public var placesFor = Aim.latency
        /// The cache's shares where only these are asked.
        public var cacheShares: TierShares?
        /// What the placement is chosen for, and leaves room for; nil for one sequence as long as the model knows.
        public var expectedWorkload: Workload?
        /// How the layers' matrices are kept; nil for as they are stored.
        public var quantization: Quantization?
        /// Keys and values are kept in 4 bits.
        public var compressesCache = false
        /// Chooses `quantization` and `compressesCache`; nil where they are given.
        public var automaticCompression: AutomaticCompression?
        /// Weights in CPU memory are pinned.
        public var pinsWeights = true
        /// Weights are copied while earlier ones are used.
        public var overlaps = true
        public var stagingSlotCount = 4
        /// What is streamed of every MLP and what the CPU computes changes between tokens with what both of them take; nil
        /// for where the placement was chosen, not given.
        public var rebalances: Bool?
        /// The CPU computes attention of decode steps over the cache that lies in CPU memory, beside a GPU.
        public var computesCacheOnCPU = false
        /// The most GPU memory that may be used, as if the GPU had no more; nil for all that is free.
        public var gpuMemoryByteCount: Int?
        /// The most CPU memory that weights, cache and buffers may take beside a GPU; nil for all that is free.
        public var cpuMemoryByteCount: Int?
        /// Where what lies on disk is written; nil for a folder in the user's cache.
        public var offloadFolder: FilePath?
        /// The processes that share the model; nil where this one has it alone.
        public var group: ProcessGroup?
        /// What a test lets go wrong.
        public var testFault: TestFault?

        public init() {}
    }

    /// What an automatic placement is to be good at.
    public enum Aim: Sendable, Hashable {
        /// The least latency: the planner divides the layers between CPU and GPU by what the machine sustains.
        case latency
        /// The GPU computes everything: as much as fits lies on it, the rest is streamed.
        case streaming
    }

    /// What computes.
    public enum Processor: String, Sendable, CaseIterable {
        case automatic = "auto"
        case cpu
        case gpu
    }

    public let configuration: OPTConfiguration
    /// How its form was chosen; nil where that was given.
    public let compression: CompressionChoice?
    /// nil for random weights, and where the model's folder has no tokenizer files.
    public let tokenizer: Tokenizer?
    /// What the model's folder recommends for sampling; greedy where it says nothing.
    public let defaultGenerationOptions: GenerationOptions
    public let instructionSet: InstructionSet
    /// Where the weights came from, in words.
    public let origin: String
    public let loading: LoadingReport

    let decoder: Decoder
    let pool: WorkerPool
    let leader: LeaderThread
    /// The weights in CPU memory where the CPU computes.
    let cpuWeights: OPTWeights?
    let gpuLane: GPULane?
    /// The processes that share the model; nil where this one has it alone.
    public let group: ProcessGroup?
    /// Whether `Options.computesCacheOnCPU` was asked for.
    private let asksForCacheComputation: Bool

    /// `load` has made sure that the processor has them.
    var kernels: UnsafePointer<tandem_cpu_kernels> { instructionSet.kernels! }

    public var threadCount: Int { pool.workerCount }
    public var weightByteCount: Int { cpuWeights?.byteCount ?? gpuLane!.weights.byteCount }
    /// The weight bytes that a decode step reads.
    public var weightByteCountPerToken: Int {
        weightByteCount - configuration.positionTableByteCount
    }
    /// What the planner chose and expected; nil where it was not asked, or everything lies on the GPU.
    public let plan: PlacementPlan?
    /// Where everything lies; nil where the CPU computes alone.
    public var placement: Placement? { gpuLane?.weights.placement }
    /// Whether the CPU computes attention of decode steps over the cache in CPU memory, beside a GPU.
    public var computesCacheOnCPU: Bool { gpuLane?.computesCacheOnCPU ?? false }
    /// How the split of every MLP between streaming and the CPU has moved; nil where it stays.
    public var rebalancing: Rebalancing? { gpuLane?.rebalancing }
    /// Whether the CPU computes a part of decode steps, beside a GPU.
    public var usesCPU: Bool { gpuLane?.usesCPU ?? false }
    /// Who does, in a sentence; nil where there is no such cache, and nothing was asked for.
    public var cacheComputationLine: String? {
        if let placement { return placement.cacheComputationLine(isAskedOfCPU: asksForCacheComputation) }
        return asksForCacheComputation
            ? "--cpu-cache-compute has no effect: the CPU computes everything" : nil
    }
    /// The GPU that computes, by name; nil where the CPU does.
    public var gpuName: String? { gpuLane?.context.device.name }

    /// The GPU's memory that this process and others use, in bytes; nil where the CPU computes.
    public var usedGPUByteCount: Int? {
        guard let context = gpuLane?.context, let free = try? context.freeByteCount,
            let total = try? context.totalByteCount
        else { return nil }
        return total - free
    }

    /// Records from now on what computing, copying and reading do; nil where the CPU computes.
    public func startTimeline() async throws -> Timeline? {
        try await leader.perform { [self] in try gpuLane?.startTimeline() }
    }

    /// Loads a model: configuration, tokenizer, weights.
    ///
    /// - Parameters:
    ///   - notice: called with a sentence where something takes long that is done once for a machine.
    ///   - progress: called now and then, on any thread, with the bytes loaded so far and in all.
    public static func load(
        _ model: ModelReference, options: Options = Options(),
        notice: @Sendable (String) -> Void = { _ in },
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
        var options = options
        var chosen: (compression: CompressionChoice, lane: LaneChoice)?
        if let automatic = options.automaticCompression {
            chosen = try await CompressionSearch(model, automatic, options: options).run(notice: notice)
            if let form = chosen?.compression.chosen { options.use(form) }
        }
        // Losses are measured once: that is no part of loading.
        let start = ContinuousClock.now
        let configuration = try model.configuration.quantized(
            options.quantization, cache: options.compressesCache)
        let choice: LaneChoice
        if let lane = chosen?.lane {
            choice = lane
        } else {
            choice = try await LaneChoice(configuration, options, notice: notice)
        }
        let pool = WorkerPool(workerCount: options.threadCount ?? choice.threadCount)
        let leader = LeaderThread(pool: pool)
        return try await leader.perform { [options, chosen] in
            try Engine(
                model, configuration, choice: choice, compression: chosen?.compression, options: options,
                instructionSet: instructionSet, pool: pool, leader: leader, start: start, progress: progress)
        }
    }

    private init(
        _ model: ModelReference, _ configuration: OPTConfiguration, choice: LaneChoice,
        compression: CompressionChoice?, options: Options, instructionSet: InstructionSet,
        pool: WorkerPool, leader: LeaderThread, start: ContinuousClock.Instant,
        progress: @escaping @Sendable (Int, Int) -> Void
    ) throws {
        self.configuration = configuration
        self.compression = compression
        self.instructionSet = instructionSet
        self.leader = leader
        self.pool = pool
        asksForCacheComputation = options.computesCacheOnCPU
        group = options.group
        if let configurationFolder = model.configurationFolder {
            if Tokenizer.exists(in: configurationFolder) {
                let tokenizer = try Tokenizer(folder: configurationFolder)
                try Self.check(tokenizer, against: configuration)
                self.tokenizer = tokenizer
            } else {
                tokenizer = nil
            }
            defaultGenerationOptions = try GenerationOptions(recommendedBy: configurationFolder)
        } else {
            tokenizer = nil
            defaultGenerationOptions = GenerationOptions()
        }
        let source = try model.source(randomWeightsSeed: options.randomWeightsSeed)
        origin = source.origin
        plan = choice.gpu?.plan
        let loader = LaneLoader(
            configuration: configuration, choice: choice, pool: pool, kernels: instructionSet.kernels!,
            options: options,
            progress: progress)
        let byteCount: Int
        switch try loader.load(from: source) {
        case .cpu(let lane, let weights):
            decoder = Decoder(Self.lane(lane, in: group))
            cpuWeights = weights
            gpuLane = nil
            byteCount = weights.byteCount
        case .gpu(let lane):
            decoder = Decoder(Self.lane(lane, in: group))
            cpuWeights = nil
            gpuLane = lane
            byteCount = lane.weights.byteCount
        }
        loading = LoadingReport(
            byteCount: byteCount, seconds: start.duration(to: .now).seconds,
            phases: choice.phases + loader.phases.durations)
    }

    /// Rank 0's lane has the others do what it does.
    private static func lane(_ lane: any Lane, in group: ProcessGroup?) -> any Lane {
        guard let group, group.isConductor else { return lane }
        return ConductingLane(lane, channel: group.link)
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
}

/// What loading a model cost.
public struct LoadingReport: Sendable, Hashable, Codable {
    public var byteCount: Int
    public var seconds: Double
    /// Where the time went, in order; the rest is reading configuration and tokenizer.
    public var phases: [Phase]

    public struct Phase: Sendable, Hashable, Codable {
        public var name: String
        public var seconds: Double
    }
}

extension Duration {
    var seconds: Double { self / .seconds(1) }
}
