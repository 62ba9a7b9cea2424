import CPUKernels
import CUDA
import Checkpoints
import Collectives
import HostRuntime
import OPTModel
import Placement
import SystemPackage

/// Loads the weights where they are to lie, and makes the lane that computes with them.
struct LaneLoader {
    let configuration: OPTConfiguration
    let choice: LaneChoice
    let pool: WorkerPool
    let kernels: UnsafePointer<tandem_cpu_kernels>
    let options: Engine.Options
    let progress: @Sendable (Int, Int) -> Void
    let phases = LoadingPhases()

    enum Loaded {
        case cpu(CPULane, OPTWeights)
        case gpu(GPULane)
    }

    func load(from source: some TensorSource) throws -> Loaded {
        if let group = options.group { try checkAgreement(group) }
        guard let gpu = choice.gpu else { return try loadCPU(source) }
        guard let group = options.group else { return .gpu(try loadGPU(source, gpu, nil)) }
        let part = try connect(group, gpu)
        return .gpu(try loadGPU(try ShardSource(source, part.shard), gpu, part))
    }

    // MARK: Several processes

    /// Whether all processes compute on the same kind of device: they exchange their sums by different means.
    private func checkAgreement(_ group: ProcessGroup) throws {
        let devices = try group.link.allGather([choice.gpu == nil ? 0 : 1])
        guard let other = devices.firstIndex(where: { $0 != devices[0] }) else { return }
        let (first, second) = devices[0] == [1] ? (0, other) : (other, 0)
        throw CollectiveError(
            .disagreement,
            "rank \(first) computes on a GPU and rank \(second) on its CPU: give all of them --device cpu, or each a GPU",
            isSaidElsewhere: group.place.rank != 0)
    }

    private func connect(_ group: ProcessGroup, _ gpu: LaneChoice.GPU) throws -> GroupPart {
        if group.communicationDevice == .cpu {
            return GroupPart(configuration, try group.hostCommunicator)
        }
        let exchange = try phases.measure("connecting the GPUs") {
            try GPUExchange(group.place, group.allReduce, context: gpu.context) { [link = group.link] in
                try link.allGather($0)
            }
        }
        return GroupPart(configuration, group.place, gpus: exchange, progress: group.link.progress)
    }

    // MARK: CPU

    private func loadCPU(_ source: some TensorSource) throws -> Loaded {
        let group = try options.group.map { GroupPart(configuration, try $0.hostCommunicator) }
        let part = group?.shard.configuration ?? configuration
        let needed = OPTWeights.byteCount(part)
        let free = options.group.share(of: HostMemory.availableByteCount) ?? .max
        let available = min(free, options.cpuMemoryByteCount ?? .max)
        if needed > available {
            throw EngineError(
                .outOfMemory,
                "\(group == nil ? "the weights" : "this rank's weights") of \(configuration.name) take "
                    + "\(needed.byteSize()) in CPU memory, and "
                    + (available < free
                        ? "\(available.byteSize()) may be used; use a smaller model, or allow more"
                        : "\(available.byteSize()) are free; use a smaller model, or close other programs")
            )
        }
        let weights = try phases.measure("weights") {
            if let group {
                return try OPTWeights(
                    part, from: try ShardSource(source, group.shard), pool: pool, kernels: kernels,
                    progress: progress)
            }
            return try OPTWeights(part, from: source, pool: pool, kernels: kernels, progress: progress)
        }
        let lane = try CPULane(weights, group: group, pool: pool, kernels: kernels)
        lane.testFault = options.testFault
        return .cpu(lane, weights)
    }

    // MARK: GPU

    private func loadGPU(_ source: some TensorSource, _ gpu: LaneChoice.GPU, _ group: GroupPart?) throws
        -> GPULane
    {
        let placement = gpu.placement
        let library = try CUBLASLt.chosen()
        let weights = try phases.measure("weights") {
            try GPULane.loadWeights(
                group?.shard.configuration ?? configuration, placement: placement, from: source, pool: pool,
                kernels: kernels, context: gpu.context,
                options: GPUWeights.Options(
                    pinsWeights: options.pinsWeights, stagingSlotCount: gpu.stagingSlotCount,
                    offloadFolder: options.offloadFolder ?? CacheFolder.path,
                    rebalances: options.rebalances ?? (gpu.plan != nil)),
                progress: progress)
        }
        let lane = try phases.measure("kernels and scratch") {
            try GPULane(
                weights, context: gpu.context, cacheSlotCount: gpu.cacheSlotCount, library: library,
                group: group,
                cpu: options.computesCacheOnCPU || placement.computesOnCPU
                    ? CPUWorkers(pool, kernels: kernels, computesCache: options.computesCacheOnCPU) : nil)
        }
        lane.testFault = options.testFault
        return lane
    }

    /// Left to the driver for what it needs itself.
    static let reservedGPUByteCount = 256 << 20
}

/// What parts of loading took, in order.
final class LoadingPhases {
    private(set) var durations: [LoadingReport.Phase] = []

    func measure<Result, Failure: Error>(_ name: String, _ body: () throws(Failure) -> Result) throws(Failure)
        -> Result
    {
        let start = ContinuousClock.now
        let result = try body()
        durations.append(LoadingReport.Phase(name: name, seconds: start.duration(to: .now).seconds))
        return result
    }
}
