import OPTModel
import Placement

extension Engine {
    /// What is expected of a workload with this placement, from what is remembered of the machine; nil where nothing is,
    /// or what computes is nothing that the cost model knows.
    public func prediction(for workload: Workload) -> LatencyPrediction? {
        HardwareProfile.remembered().flatMap { prediction(for: workload, on: $0) }
    }

    /// The same on a machine with these rates.
    public func prediction(for workload: Workload, on profile: HardwareProfile) -> LatencyPrediction? {
        if computesCacheOnCPU { return nil }
        var profile = profile
        if gpuLane == nil {
            profile.gpu = nil
            profile.together = nil
        }
        let shape = configuration.shape
        let model = CostModel(
            profile, workload, threadCount: threadCount,
            staging: CostModel.Staging(
                slotCount: gpuLane?.weights.stagingSlotCount ?? 0,
                slotByteCount: GPULane.workingMemory(configuration, positionCount: 0, stagingSlotCount: 0)
                    .stagingSlotByteCount))
        return model.latency(of: placement ?? Placement(shape, .allOnCPU))
    }
}
