import CUDA
import Collectives
import HostRuntime
import OPTModel
import Placement

/// What computes a model on this machine, where everything lies and with how many threads: chosen before a thread is
/// started or memory is taken.
struct LaneChoice: Sendable {
    /// The GPU's; nil where the CPU computes alone.
    var gpu: GPU?
    var threadCount: Int?
    /// What choosing took.
    var phases: [LoadingReport.Phase] = []

    struct GPU: Sendable {
        var context: Context
        var placement: Placement
        /// What the planner expects; nil where percentages were given, and where everything lies on the GPU.
        var plan: PlacementPlan?
        var stagingSlotCount: Int
        var cacheSlotCount: Int
    }
}

extension LaneChoice {
    /// - Parameter notice: called with a sentence where choosing takes long.
    init(
        _ configuration: OPTConfiguration, _ options: Engine.Options, notice: @Sendable (String) -> Void
    ) async throws {
        let isPlaced = options.placement != nil || options.cacheShares != nil
        let start = ContinuousClock.now
        let survey = options.computesOn == .cpu ? nil : try options.group.map { try GPUSurvey($0) }
        let context: Context
        do {
            if options.computesOn == .cpu { throw EngineError(.noGPU, "the CPU is to compute alone") }
            let driver = try CUDADriver.load()
            context = try Context(device: driver.device(survey?.deviceIndex() ?? 0))
        } catch let error as CollectiveError {
            throw error
        } catch {
            if options.computesOn == .gpu { throw error }
            if isPlaced && options.computesOn == .cpu {
                throw EngineError(
                    .invalidOption,
                    "a placement was asked for, but the CPU is to compute alone; leave one out")
            }
            if isPlaced {
                throw EngineError(.noGPU, "a placement was asked for, which needs a GPU: \(error)")
            }
            self.init()
            return
        }
        let contextSeconds = start.duration(to: .now).seconds
        let choosing = GPUChoice(
            configuration: options.group.part(of: configuration), options: options, context: context,
            measuresMachine: survey?.measuresMachines ?? false)
        let gpu = try await choosing.choose(notice: notice)
        self.init(
            gpu: gpu, threadCount: gpu.plan?.threadCount ?? Self.threadCount(for: gpu.placement.request),
            phases: [
                LoadingReport.Phase(name: "driver and context", seconds: contextSeconds),
                LoadingReport.Phase(
                    name: "placement", seconds: start.duration(to: .now).seconds - contextSeconds),
            ])
    }

    private static func threadCount(for request: PlacementRequest) -> Int? {
        request.usesBothLanes ? WorkerPool.workerCountBesideStreaming : nil
    }
}

extension Engine.Options {
    /// What is expected, or one sequence as long as the model knows, with a quarter of it in the prompt.
    func workload(of configuration: OPTConfiguration) -> Workload {
        let most = configuration.maximumPositions
        return expectedWorkload
            ?? Workload(
                batchSize: 1, promptLength: max(1, most / 4), generationLength: most - max(1, most / 4))
    }
}

/// The choice where there is a GPU.
private struct GPUChoice {
    /// Of this process's part.
    let configuration: OPTConfiguration
    let options: Engine.Options
    let context: Context
    /// Whatever is remembered of the machine.
    let measuresMachine: Bool

    func choose(notice: (String) -> Void) async throws -> LaneChoice.GPU {
        let shape = configuration.shape
        let budget = try budget
        if let request = options.placement {
            let placement = Placement(shape, request)
            try budget.check(placement, working)
            return choice(placement)
        }
        if options.placesFor == .streaming || options.cacheShares != nil {
            return choice(try Placement.fitting(shape, budget, working, cache: options.cacheShares))
        }
        // What has room on the GPU belongs there, whatever the machine's rates are.
        if let whole = try? Placement.fitting(shape, budget, working), whole.request.isAllOnGPU {
            return choice(whole)
        }
        let profile = try await HardwareProfiler.profileOfMachine(
            offloadFolder: options.offloadFolder, measuresAgain: measuresMachine,
            gpuIndex: context.device.index, notice: notice)
        let planner = PlacementPlanner(
            shape: shape, budget: budget, working: working, hardware: profile, workload: workload,
            threadCount: options.threadCount)
        let plan = try planner.plan()
        var choice = choice(plan.placement)
        choice.plan = plan
        choice.stagingSlotCount = plan.stagingSlotCount
        return choice
    }

    private func choice(_ placement: Placement) -> LaneChoice.GPU {
        LaneChoice.GPU(
            context: context, placement: placement, plan: nil, stagingSlotCount: slotCount,
            cacheSlotCount: cacheSlotCount)
    }

    private var budget: MemoryBudget {
        get throws {
            try MemoryBudget(
                free: max(0, context.freeByteCount - groupGPUByteCount), gpuLimit: options.gpuMemoryByteCount,
                cpuLimit: options.cpuMemoryByteCount,
                cpuFree: options.group.share(of: HostMemory.availableByteCount) ?? .max,
                diskFree: options.group.share(
                    of: OffloadFile.availableByteCount(in: options.offloadFolder ?? CacheFolder.path)) ?? .max
            )
        }
    }

    /// What exchanging with other ranks takes of the GPU: NCCL's buffers, the memory that peers write, a sum beside the residual
    /// stream, and rank 0's logits of the whole vocabulary.
    private var groupGPUByteCount: Int { options.group == nil ? 0 : 1 << 30 }

    private var workload: Workload { options.workload(of: configuration) }

    private var working: WorkingMemory {
        GPULane.workingMemory(
            configuration, positionCount: workload.positionCount, stagingSlotCount: slotCount,
            cacheSlotCount: cacheSlotCount)
    }

    /// With one slot, a copy waits until the last block was used, and computing until the copy is there.
    private var slotCount: Int { options.overlaps ? options.stagingSlotCount : 1 }

    private var cacheSlotCount: Int { options.overlaps ? GPULane.defaultCacheSlotCount : 1 }
}
