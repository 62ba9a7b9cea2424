import CPUKernels
import CUDA
import Checkpoints
import HostRuntime
import OPTModel
import Placement
import SystemPackage

/// Chooses what computes and where everything lies, makes sure that it fits, and loads the weights there.
struct LaneLoader {
    let configuration: OPTConfiguration
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
        switch options.computesOn {
        case .cpu:
            if options.placement != nil || options.cacheShares != nil {
                throw EngineError(
                    .invalidOption,
                    "a placement was asked for, but the CPU is to compute alone; leave one out")
            }
            return try loadCPU(source)
        case .gpu:
            return .gpu(try loadGPU(source, try makeContext()))
        case .automatic:
            let context: Context
            do {
                context = try makeContext()
            } catch {
                if options.placement != nil || options.cacheShares != nil {
                    throw EngineError(.noGPU, "a placement was asked for, which needs a GPU: \(error)")
                }
                return try loadCPU(source)
            }
            return .gpu(try loadGPU(source, context))
        }
    }

    private func makeContext() throws(CUDAError) -> Context {
        try phases.measure("driver and context") { () throws(CUDAError) in
            try Context(device: CUDADriver.load().device())
        }
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
        return .cpu(try CPULane(weights, pool: pool, kernels: kernels), weights)
    }

    // MARK: GPU

    private func loadGPU(_ source: some TensorSource, _ context: Context) throws -> GPULane {
        let shape = configuration.shape
        let folder = options.offloadFolder ?? CacheFolder.path
        let budget = MemoryBudget(
            free: try context.freeByteCount, gpuLimit: options.gpuMemoryByteCount,
            cpuLimit: options.cpuMemoryByteCount, cpuFree: HostMemory.availableByteCount ?? .max,
            diskFree: OffloadFile.availableByteCount(in: folder) ?? .max)
        let working = GPULane.workingMemory(
            configuration, positionCount: options.expectedPositionCount ?? configuration.maximumPositions,
            stagingSlotCount: slotCount, cacheSlotCount: cacheSlotCount)
        let placement: Placement
        if let request = options.placement {
            placement = Placement(shape, request)
            try budget.check(placement, working)
        } else {
            placement = try Placement.fitting(shape, budget, working, cache: options.cacheShares)
        }
        let library = try CUBLASLt.chosen()
        let weights = try phases.measure("weights") {
            try GPULane.loadWeights(
                configuration, placement: placement, from: source, pool: pool, kernels: kernels,
                context: context,
                options: GPUWeights.Options(
                    pinsWeights: options.pinsWeights, stagingSlotCount: slotCount, offloadFolder: folder),
                progress: progress)
        }
        return try phases.measure("kernels and scratch") {
            try GPULane(
                weights, context: context, cacheSlotCount: cacheSlotCount,
                library: library,
                cpu: options.computesCacheOnCPU || placement.computesOnCPU
                    ? CPUWorkers(pool, kernels: kernels, computesCache: options.computesCacheOnCPU) : nil)
        }
    }

    /// With one slot, a copy waits until the last block was used, and computing until the copy is there.
    private var slotCount: Int { options.overlaps ? options.stagingSlotCount : 1 }

    private var cacheSlotCount: Int { options.overlaps ? GPULane.defaultCacheSlotCount : 1 }

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
