import HostRuntime
import OPTModel
import Placement

extension LaneChoice {
    /// What an average decode step is expected to take.
    ///
    /// - Throws: where the CPU is to compute alone and has no room.
    func stepSeconds(
        of configuration: OPTConfiguration, _ options: Engine.Options, on profile: HardwareProfile
    ) throws -> Double {
        let workload = options.workload(of: configuration)
        var profile = profile
        guard let gpu else {
            profile.gpu = nil
            profile.together = nil
            let planner = PlacementPlanner(
                shape: configuration.shape,
                budget: MemoryBudget(
                    free: 0, gpuLimit: nil, cpuLimit: options.cpuMemoryByteCount,
                    cpuFree: HostMemory.availableByteCount ?? .max, diskFree: 0),
                working: GPULane.workingMemory(
                    configuration, positionCount: workload.positionCount, stagingSlotCount: 0),
                hardware: profile, workload: workload, threadCount: options.threadCount)
            return try planner.plan().prediction.decodeStep.seconds
        }
        if let plan = gpu.plan { return plan.prediction.decodeStep.seconds }
        guard profile.gpu != nil else {
            throw EngineError(.noGPU, "the GPU was not measured; run tandem doctor")
        }
        let model = CostModel(
            profile, workload,
            threadCount: options.threadCount ?? threadCount ?? WorkerPool.availableProcessorCount,
            staging: CostModel.Staging(
                slotCount: gpu.stagingSlotCount,
                slotByteCount: GPULane.workingMemory(configuration, positionCount: 0, stagingSlotCount: 0)
                    .stagingSlotByteCount))
        return model.decodeStep(gpu.placement).seconds
    }
}
