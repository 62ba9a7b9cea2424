/// Chooses a placement, the CPU lane's threads and the depth of the staging ring, such that a workload's predicted latency
/// is the least.
public struct PlacementPlanner: Sendable {
    public let shape: ModelShape
    /// What is free on each tier, as far as it may be used.
    public let budget: MemoryBudget
    /// `stagingSlotCount` is the deepest ring to consider.
    public let working: WorkingMemory
    public let hardware: HardwareProfile
    public let workload: Workload
    /// The threads of the CPU lane where they are not to be chosen.
    public let threadCount: Int?

    public init(
        shape: ModelShape, budget: MemoryBudget, working: WorkingMemory, hardware: HardwareProfile,
        workload: Workload, threadCount: Int? = nil
    ) {
        self.shape = shape
        self.budget = budget
        self.working = working
        self.hardware = hardware
        self.workload = workload
        self.threadCount = threadCount
    }

    /// The same on a machine with other rates.
    public func on(_ hardware: HardwareProfile) -> PlacementPlanner {
        PlacementPlanner(
            shape: shape, budget: budget, working: working, hardware: hardware, workload: workload,
            threadCount: threadCount)
    }

    /// The placement with the least predicted latency: all on the GPU where that has room, all on the CPU without a GPU.
    ///
    /// Throws `outOfMemory` where nothing fits.
    public func plan() throws(PlacementError) -> PlacementPlan {
        guard hardware.gpu != nil else { return try planWithoutGPU() }
        let fill = MemoryFill(shape, budget, working)
        if let found = planWithAllOnGPU(fill) ?? search(fill) { return plan(found, fill) }
        let fitting = try Placement.fitting(shape, budget, working)
        return plan(choice(fitting, slotCount: working.stagingSlotCount), fill)
    }

    /// One percentage of the computation for all kinds of layer, and what to expect of it.
    public struct SweepPoint: Sendable, Hashable {
        public let computationPercent: Double
        /// nil where it has no room.
        public let placement: Placement?
        public let prediction: LatencyPrediction?
    }

    /// Predictions where the GPU computes so many percent of attention, MLP and output embedding alike, with as much as
    /// possible of that on it. Needs a GPU in the profile.
    ///
    /// Throws `invalidPercent` for what is none.
    public func sweep(computationPercents: [Double]) throws(PlacementError) -> [SweepPoint] {
        precondition(hardware.gpu != nil, "a sweep over the GPU's share without a GPU")
        let fill = MemoryFill(shape, budget, working)
        var points: [SweepPoint] = []
        for percent in computationPercents {
            try TierShares.checkPercent(percent, "the GPU's computation percentage")
            let split = ComputationSplit.alike(percent, shape, slotCount: working.stagingSlotCount)
            let found = choice(split, fill)
            points.append(
                SweepPoint(
                    computationPercent: percent, placement: found?.placement, prediction: found?.prediction))
        }
        return points
    }

    // MARK: Choices

    /// A placement with its prediction.
    struct Choice {
        let placement: Placement
        let slotCount: Int
        let prediction: LatencyPrediction
        var seconds: Double { prediction.seconds }
    }

    /// What becomes of a split; nil where it has no room.
    func choice(_ split: ComputationSplit, _ fill: MemoryFill) -> Choice? {
        fill.placement(split).map { choice($0, slotCount: split.slotCount) }
    }

    private func choice(_ placement: Placement, slotCount: Int) -> Choice {
        let model = model(placement, slotCount: slotCount)
        return Choice(
            placement: placement, slotCount: slotCount, prediction: model.latency(of: placement))
    }

    private func model(_ placement: Placement, slotCount: Int) -> CostModel {
        CostModel(
            hardware, workload, threadCount: threadCount(placement),
            staging: CostModel.Staging(
                slotCount: slotCount, slotByteCount: working.stagingSlotByteCount))
    }

    /// All cores, but two where the CPU computes beside a GPU, for the threads that stream and the driver's: 6.7b took 99 ms
    /// a token with 14 threads of 16 and 122 with all.
    private func threadCount(_ placement: Placement) -> Int {
        threadCount
            ?? max(
                1,
                hardware.processor.coreCount
                    - (hardware.gpu != nil && placement.request.usesBothLanes ? 2 : 0))
    }

    private func planWithAllOnGPU(_ fill: MemoryFill) -> Choice? {
        let all = ComputationSplit.everything(shape, slotCount: working.stagingSlotCount)
        let found = choice(all, fill)
        return found?.placement.request.isAllOnGPU == true ? found : nil
    }

    private func plan(_ found: Choice, _ fill: MemoryFill) -> PlacementPlan {
        let slotCount = working.stagingSlotCount
        let streamed = choice(.everything(shape, slotCount: slotCount), fill)
        let onCPU = choice(.alike(0, shape, slotCount: slotCount), fill)
        return plan(found, allStreamed: streamed?.prediction, allOnCPU: onCPU?.prediction)
    }

    private func plan(
        _ found: Choice, allStreamed: LatencyPrediction?, allOnCPU: LatencyPrediction?
    ) -> PlacementPlan {
        PlacementPlan(
            placement: found.placement, threadCount: threadCount(found.placement),
            stagingSlotCount: found.slotCount, prediction: found.prediction,
            floor: model(found.placement, slotCount: found.slotCount).floor(of: found.placement),
            allStreamed: allStreamed, allOnCPU: allOnCPU)
    }

    /// Everything in CPU memory, computed there.
    private func planWithoutGPU() throws(PlacementError) -> PlacementPlan {
        let placement = Placement(shape, .allOnCPU)
        // What `MemoryDemand` counts on the GPU is not needed; what lies on the disk the CPU cannot compute with.
        let budget = MemoryBudget(
            gpuByteCount: .max, cpuByteCount: budget.cpuByteCount, diskByteCount: 0)
        try budget.check(placement, working)
        let found = choice(placement, slotCount: 0)
        return plan(found, allStreamed: nil, allOnCPU: found.prediction)
    }
}
