import CPUKernels
import CUDA
import Checkpoints
import Collectives
import HostRuntime
import Placement
import Synchronization
import SystemPackage

@testable import OPTModel

/// A small model with its decoder, and the greedy loop that golden files are compared with.
struct LoadedModel {
    let decoder: Decoder
    let pool: WorkerPool
    let configuration: OPTConfiguration
    private(set) var gpuWeights: GPUWeights?
    var gpuLane: GPULane? { decoder.lane as? GPULane }

    struct Result {
        var tokens: [[Int32]]
        /// The logits that chose each sequence's first token.
        var firstLogits: [[Float]]
        var lastLogits: [[Float]]
    }

    init(
        _ folder: FilePath, kernels: UnsafePointer<tandem_cpu_kernels>, workerCount: Int,
        rowCapacity: Int = CPULane.mostRows
    ) throws {
        let configuration = try OPTConfiguration(folder: folder)
        try self.init(
            configuration, source: try CheckpointFiles(folder: folder), kernels: kernels,
            workerCount: workerCount, rowCapacity: rowCapacity)
    }

    init(
        _ configuration: OPTConfiguration, source: some TensorSource,
        kernels: UnsafePointer<tandem_cpu_kernels>, workerCount: Int, rowCapacity: Int = CPULane.mostRows
    ) throws {
        pool = WorkerPool(workerCount: workerCount)
        let weights = try OPTWeights(configuration, from: source, pool: pool, kernels: kernels) { _, _ in }
        decoder = Decoder(try CPULane(weights, pool: pool, kernels: kernels, rowCapacity: rowCapacity))
        self.configuration = configuration
    }

    /// One process's part of a model: rank 0's conducts.
    init(
        _ folder: FilePath, group: any Communicator, channel: any CommandChannel, workerCount: Int
    ) throws {
        try self.init(
            OPTConfiguration(folder: folder), source: CheckpointFiles(folder: folder), group: group,
            channel: channel, workerCount: workerCount)
    }

    init(
        _ configuration: OPTConfiguration, source: some TensorSource, group: any Communicator,
        channel: any CommandChannel, workerCount: Int
    ) throws {
        self.configuration = configuration
        pool = WorkerPool(workerCount: workerCount)
        let kernels = fastestKernels!
        let part = GroupPart(configuration, group)
        let weights = try OPTWeights(
            part.shard.configuration,
            from: try ShardSource(source, part.shard), pool: pool, kernels: kernels
        ) { _, _ in }
        let lane = try CPULane(weights, group: part, pool: pool, kernels: kernels)
        decoder = group.place.rank == 0 ? Decoder(ConductingLane(lane, channel: channel)) : Decoder(lane)
    }

    /// The same on a GPU, with the part's weights as `request` has them.
    ///
    /// - Parameter memory: for sums that go in one shot; nil where they go through the communicator.
    init(
        _ folder: FilePath, group: any Communicator, channel: any CommandChannel,
        onGPU request: PlacementRequest, context: Context, memory: PeerMemory? = nil, cpu: CPUPart? = nil
    ) throws {
        try self.init(
            OPTConfiguration(folder: folder), source: try CheckpointFiles(folder: folder), group: group,
            channel: channel, onGPU: request, context: context, memory: memory, cpu: cpu)
    }

    /// - Parameter stepRanks: decode steps of one sequence are one kernel of each rank.
    init(
        _ configuration: OPTConfiguration, source: some TensorSource, group: any Communicator,
        channel: any CommandChannel, onGPU request: PlacementRequest, context: Context,
        memory: PeerMemory? = nil, cpu: CPUPart? = nil, stepRanks: StepRanks? = nil
    ) throws {
        self.configuration = configuration
        pool = WorkerPool(workerCount: cpu?.workerCount ?? 1)
        let part = GroupPart(
            configuration, group.place, communicator: group,
            gpus: memory.map { GPUExchange(group.place, memory: $0) })
        let weights = try GPULane.loadWeights(
            part.shard.configuration, placement: Placement(part.shard.configuration.shape, request),
            from: try ShardSource(source, part.shard), pool: pool, kernels: fastestKernels!, context: context,
            options: GPUWeights.Options(offloadFolder: "/var/tmp")
        ) { _, _ in }
        gpuWeights = weights
        let workers = CPUWorkers(
            pool, kernels: fastestKernels!, computesCache: !weights.placement.computesOnCPU)
        let lane = try GPULane(
            weights, context: context, group: part, stepRanks: stepRanks, cpu: cpu == nil ? nil : workers)
        decoder = group.place.rank == 0 ? Decoder(ConductingLane(lane, channel: channel)) : Decoder(lane)
    }

    /// The processor's part of decode steps on the GPU.
    struct CPUPart {
        var workerCount = 2
        /// Attention over the cache in CPU memory of the GPU's heads; nil for where the placement gives the CPU nothing else.
        var computesCache: Bool?
        var linkLimits = LaneLink.TimeLimits()
    }

    /// The model on the GPU, with its weights as `request` has them.
    ///
    /// - Parameters:
    ///   - context: nil for the machine's first GPU.
    ///   - cpu: threads that compute beside the GPU; nil for the GPU alone.
    init(
        _ folder: FilePath, onGPU request: PlacementRequest, stagingSlotCount: Int = 4,
        cacheSlotCount: Int = GPULane.defaultCacheSlotCount, rowCapacity: Int = GPULane.mostRows,
        offloadFolder: FilePath = "/var/tmp", context: Context? = nil, cpu: CPUPart? = nil,
        rebalances: Bool = false
    ) throws {
        try self.init(
            OPTConfiguration(folder: folder), source: try CheckpointFiles(folder: folder), onGPU: request,
            stagingSlotCount: stagingSlotCount, cacheSlotCount: cacheSlotCount, rowCapacity: rowCapacity,
            offloadFolder: offloadFolder, context: context, cpu: cpu, rebalances: rebalances)
    }

    /// - Parameter usesStepKernel: steps of one sequence may be one kernel.
    init(
        _ configuration: OPTConfiguration, source: some TensorSource, onGPU request: PlacementRequest,
        stagingSlotCount: Int = 4, cacheSlotCount: Int = GPULane.defaultCacheSlotCount,
        rowCapacity: Int = GPULane.mostRows, offloadFolder: FilePath = "/var/tmp", context: Context? = nil,
        usesStepKernel: Bool = true, cpu: CPUPart? = nil, rebalances: Bool = false
    ) throws {
        let library = context == nil ? try? CUBLASLt.shared.get() : nil
        let context = try context ?? Context(device: CUDADriver.load().device())
        pool = WorkerPool(workerCount: cpu?.workerCount ?? 2)
        self.configuration = configuration
        var options = GPUWeights.Options(
            stagingSlotCount: stagingSlotCount, offloadFolder: offloadFolder, rebalances: rebalances)
        // The small models have few neurons.
        options.rebalancingUnit = 8
        let weights = try GPULane.loadWeights(
            configuration, placement: Placement(configuration.shape, request),
            from: source, pool: pool, kernels: fastestKernels!, context: context,
            options: options
        ) { _, _ in }
        gpuWeights = weights
        var workers = CPUWorkers(
            pool, kernels: fastestKernels!,
            computesCache: cpu?.computesCache ?? !weights.placement.computesOnCPU)
        if let cpu { workers.linkLimits = cpu.linkLimits }
        decoder = Decoder(
            try GPULane(
                weights, context: context, rowCapacity: rowCapacity, cacheSlotCount: cacheSlotCount,
                usesStepKernel: usesStepKernel, library: library, cpu: cpu == nil ? nil : workers))
    }

    /// - Parameter choosesOnLane: the lane chooses the tokens, and there are no logits.
    func decodeGreedily(_ prompts: [[Int32]], steps: Int, choosesOnLane: Bool = false) throws -> Result {
        let state = try decoder.makeState(capacities: prompts.map { $0.count + steps })
        var result = Result(
            tokens: prompts.map { _ in [] }, firstLogits: prompts.map { _ in [] },
            lastLogits: prompts.map { _ in [] })
        func choice(_ sequence: Int) -> TokenChoice? {
            guard choosesOnLane else { return nil }
            return TokenChoice(temperature: 0, topK: 0, topP: 1, uniform: 0, forbidden: nil)
        }
        func choose(_ sequence: Int, _ output: LaneOutput) {
            let token: Int32
            switch output {
            case .token(let chosen): token = chosen
            case .logits(let logits):
                token = Int32(logits.indices.max { logits[$0] < logits[$1] }!)
                if result.tokens[sequence].isEmpty { result.firstLogits[sequence] = Array(logits) }
                result.lastLogits[sequence] = Array(logits)
            }
            result.tokens[sequence].append(token)
            state.nextTokens[sequence] = token
            state.isActive[sequence] = result.tokens[sequence].count < steps
        }
        let isCancelled = Atomic<Bool>(false)
        let isComplete = try decoder.prefill(
            prompts, state: state, isCancelled: isCancelled, choice: choice, choose)
        precondition(isComplete)
        while (0..<prompts.count).contains(where: { state.isActive[$0] }) {
            try decoder.step(state, choice: choice, choose)
        }
        return result
    }
}
