import CPUKernels
import CUDA
import Checkpoints
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
        guard let gpu = choice.gpu else { return try loadCPU(source) }
        return .gpu(try loadGPU(source, gpu))
    }

    // MARK: CPU

    private func loadCPU(_ source: some TensorSource) throws -> Loaded {
        let needed = OPTWeights.byteCount(configuration)
        let free = HostMemory.availableByteCount ?? .max
        let available = min(free, options.cpuMemoryByteCount ?? .max)
        if needed > available {
            throw EngineError(
                .outOfMemory,
                "the weights of \(configuration.name) take \(needed.gibibytes()) GiB in CPU memory, and "
                    + (available < free
                        ? "\(available.gibibytes()) GiB may be used; use a smaller model, or allow more"
                        : "\(available.gibibytes()) GiB are free; use a smaller model, or close other programs")
            )
        }
        let weights = try phases.measure("weights") {
            try OPTWeights(configuration, from: source, pool: pool, kernels: kernels, progress: progress)
        }
        let lane = try CPULane(weights, pool: pool, kernels: kernels)
        lane.testFault = options.testFault
        return .cpu(lane, weights)
    }

    // MARK: GPU

    private func loadGPU(_ source: some TensorSource, _ gpu: LaneChoice.GPU) throws -> GPULane {
        let placement = gpu.placement
        try check(placement)
        let library = try CUBLASLt.chosen()
        let weights = try phases.measure("weights") {
            try GPULane.loadWeights(
                configuration, placement: placement, from: source, pool: pool, kernels: kernels,
                context: gpu.context,
                options: GPUWeights.Options(
                    pinsWeights: options.pinsWeights, stagingSlotCount: gpu.stagingSlotCount,
                    offloadFolder: options.offloadFolder ?? CacheFolder.path,
                    rebalances: options.rebalances ?? (gpu.plan != nil)),
                progress: progress)
        }
        let lane = try phases.measure("kernels and scratch") {
            try GPULane(
                weights, context: gpu.context, cacheSlotCount: gpu.cacheSlotCount, library: library,
                cpu: options.computesCacheOnCPU || placement.computesOnCPU
                    ? CPUWorkers(pool, kernels: kernels) : nil)
        }
        lane.testFault = options.testFault
        return lane
    }

    /// Refuses what the lanes cannot do together.
    private func check(_ placement: Placement) throws(EngineError) {
        for kind in [LayerKind.outputEmbedding, .attention, .mlp] {
            let layer = placement[kind]
            if layer.cpuComputed.overlaps(layer.weights.disk) {
                throw EngineError(
                    .invalidOption,
                    "\(kind.label): the CPU is to compute with weights that lie on disk; give "
                        + "--per-layer-weight-percent 100 % on GPU and CPU together there, or "
                        + "--per-layer-computation-percent 100")
            }
        }
        if placement.attention.cpuComputed.overlaps(placement.cacheHeads.disk) {
            throw EngineError(
                .invalidOption,
                "the CPU is to compute attention over a cache that lies on disk; give --cache-percent 100 % on GPU and CPU "
                    + "together, or --per-layer-computation-percent 100 for self-attention")
        }
        if placement.computesOnCPU && options.computesCacheOnCPU
            && placement.cacheHeads.cpu.overlaps(placement.attention.gpuComputed)
        {
            throw EngineError(
                .invalidOption,
                "--cpu-cache-compute cannot be had together with --per-layer-computation-percent below 100; give the GPU "
                    + "as much of the cache as of self-attention, and leave --cpu-cache-compute out")
        }
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
