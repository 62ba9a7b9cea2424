import Testing

@testable import Placement

struct PlacementPlannerTests {
    /// A planner with room on the GPU for what is needed in any case, all slots, and so many GiB.
    private func planner(
        _ shape: ModelShape, gpuGibibytes: Double, cpuGibibytes: Double = 1000, batchSize: Int = 1,
        on hardware: HardwareProfile = .h200
    ) -> PlacementPlanner {
        let workload = Workload.standard(batchSize: batchSize)
        let working = WorkingMemory(shape, workload)
        let needed =
            shape.projectionByteCount + shape.vectorByteCount + working.gpuScratchByteCount
            + (working.stagingSlotCount + working.fetchSlotCount) * working.stagingSlotByteCount
        let gibibyte = Double(1 << 30)
        return PlacementPlanner(
            shape: shape,
            budget: MemoryBudget(
                gpuByteCount: needed + Int(gpuGibibytes * gibibyte),
                cpuByteCount: Int(cpuGibibytes * gibibyte), diskByteCount: 4 << 40),
            working: working, hardware: hardware, workload: workload)
    }

    private func expectSound(
        _ plan: PlacementPlan, _ planner: PlacementPlanner, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        var working = planner.working
        working.stagingSlotCount = plan.stagingSlotCount
        try planner.budget.check(plan.placement, working)
        let request = plan.request
        let checked = try PlacementRequest(
            weights: request.weights, cache: request.cache, computation: request.computation,
            weightFlag: request.weightFlag)
        #expect(checked == request, sourceLocation: sourceLocation)
        for kind in [LayerKind.outputEmbedding, .attention, .mlp] {
            let layer = plan.placement[kind]
            #expect(!layer.cpuComputed.overlaps(layer.weights.disk), sourceLocation: sourceLocation)
        }
        let cached = plan.placement.cacheHeads.cpu
        #expect(
            plan.placement.attention.cpuComputed.allSatisfy(cached.contains), sourceLocation: sourceLocation)
        for other in [plan.allStreamed, plan.allOnCPU].compactMap({ $0 }) {
            #expect(plan.prediction.seconds <= other.seconds * 1.0001, sourceLocation: sourceLocation)
        }
        #expect(plan.prediction.decodeStep.seconds > plan.floor.seconds, sourceLocation: sourceLocation)
    }

    @Test func `what fits on the GPU is on the GPU, all of it`() throws {
        for shape in ModelShape.published {
            let planner = planner(shape, gpuGibibytes: 400)
            let plan = try planner.plan()
            #expect(plan.request == (try .alike(100, 0)))
            #expect(plan.threadCount == 16 && plan.prediction == plan.allStreamed)
            try expectSound(plan, planner)
        }
    }

    @Test func `plans of all sizes fit, pass the checks and beat both simple choices`() throws {
        for shape in ModelShape.published {
            let weights = Double(Placement(shape, try .alike(100, 0)).allWeightByteCount) / Double(1 << 30)
            for share in [0.0, 0.2, 0.7] {
                let planner = planner(shape, gpuGibibytes: share * weights)
                let plan = try planner.plan()
                try expectSound(plan, planner)
                let streamed = try #require(plan.allStreamed)
                #expect(plan.prediction.decodeStep.seconds < 0.75 * streamed.decodeStep.seconds)
                #expect(plan.allOnCPU != nil && plan.threadCount == 14)
            }
        }
    }

    @Test(arguments: [(2, 1.0), (4, 0), (4, 4), (4, 8)], [1, 8])
    func `no placement of a fine grid is better by more than a twentieth`(
        _ size: (index: Int, gibibytes: Double), _ batchSize: Int
    ) throws {
        let planner = planner(
            ModelShape.published[size.index], gpuGibibytes: size.gibibytes, batchSize: batchSize)
        let plan = try planner.plan()
        try expectSound(plan, planner)
        let best = try bestOfGrid(planner)
        #expect(plan.prediction.seconds <= 1.05 * best)
        // A grid that is far off would prove nothing.
        #expect(plan.prediction.seconds >= 0.85 * best)
    }

    /// The least latency among computation in steps of 5 %, three ways to fill the GPU's memory and two rings.
    private func bestOfGrid(_ planner: PlacementPlanner) throws -> Double {
        var best = Double.infinity
        for slotCount in [2, 4] {
            var working = planner.working
            working.stagingSlotCount = slotCount
            let model = CostModel(
                planner.hardware, planner.workload, threadCount: 14,
                staging: CostModel.Staging(
                    slotCount: slotCount, slotByteCount: working.stagingSlotByteCount))
            for attention in stride(from: 0.0, through: 100, by: 5) {
                for mlp in stride(from: 0.0, through: 100, by: 5) {
                    for table in [0.0, 50, 100] {
                        for attentionShare in [0, 0.5, 1] {
                            let computation = PerLayerKind(
                                inputEmbedding: 100, outputEmbedding: table, attention: attention, mlp: mlp)
                            let placement = filled(
                                planner.shape, planner.budget, working, computation,
                                attentionShare: attentionShare)
                            guard planner.budget.holds(MemoryDemand(placement, working)) else { continue }
                            best = min(best, model.latency(of: placement).seconds)
                        }
                    }
                }
            }
        }
        return best
    }

    /// With the GPU's cache on it, and of what is left so much for attention, then the MLP, then the token table.
    private func filled(
        _ shape: ModelShape, _ budget: MemoryBudget, _ working: WorkingMemory,
        _ computation: PerLayerKind<Double>, attentionShare: Double
    ) -> Placement {
        func placement(_ attention: Double, _ mlp: Double, _ table: Double) -> Placement {
            func shares(_ gpu: Double) -> TierShares { TierShares(uncheckedGPU: gpu, cpu: 100 - gpu) }
            return Placement(
                shape,
                PlacementRequest(
                    unchecked: PerLayerKind(
                        inputEmbedding: .allOnCPU, outputEmbedding: shares(table),
                        attention: shares(attention), mlp: shares(mlp)),
                    cache: shares(computation.attention), computation: computation,
                    weightFlag: .perLayerWeightPercent))
        }
        let empty = placement(0, 0, 0)
        var free = Double(budget.gpuByteCount - MemoryDemand(empty, working).byteCount(on: .gpu))
        func take(_ kind: LayerKind, _ share: Double) -> Double {
            let one = Double(empty.weightByteCount(kind, on: .cpu)) / 100
            let percent = min(computation[kind], max(0, free * share / one).rounded(.down))
            free -= percent * one
            return percent
        }
        // Half a unit of each may be rounded up.
        free -= Double(shape.layerCount * (shape.bytesPerHead + Placement.rowUnit * shape.bytesPerNeuron)) / 2
        let attention = take(.attention, attentionShare)
        let mlp = take(.mlp, 1)
        return placement(attention, mlp, take(.outputEmbedding, 1))
    }

    @Test(arguments: [1, 8])
    func `more GPU memory is never slower`(_ batchSize: Int) throws {
        for shape in [ModelShape.opt1_3B, .opt6_7B, .opt30B] {
            let weights = Double(Placement(shape, try .alike(100, 0)).allWeightByteCount) / Double(1 << 30)
            var least = Double.infinity
            for step in 0...16 {
                let gibibytes = weights * Double(step) / 14
                let seconds = try planner(shape, gpuGibibytes: gibibytes, batchSize: batchSize).plan()
                    .prediction.seconds
                // Heads are placed whole, and the search stops where a step no longer pays.
                #expect(seconds <= 1.005 * least, "\(shape.hiddenSize) wide, \(gibibytes) GiB")
                least = min(least, seconds)
            }
        }
    }

    @Test func `a plan's percentages, typed, are cut into the same ranges`() throws {
        for shape in ModelShape.published {
            for gibibytes in [0.1, 0.37, 3] {
                let plan = try planner(shape, gpuGibibytes: gibibytes, cpuGibibytes: 700, batchSize: 8).plan()
                let request = plan.request
                func typed(_ percent: Double) throws -> Double { try #require(Double(percent.plainText)) }
                let weights = try LayerKind.allCases.flatMap {
                    [try typed(request.weights[$0].gpuPercent), try typed(request.weights[$0].cpuPercent)]
                }
                let again = try PlacementRequest(
                    perLayerWeightPercent: weights,
                    perLayerComputationPercent: try LayerKind.allCases.map {
                        try typed(request.computation[$0])
                    },
                    cachePercent: [try typed(request.cache.gpuPercent), try typed(request.cache.cpuPercent)])
                let placement = Placement(shape, again)
                for kind in LayerKind.allCases {
                    #expect(placement[kind] == plan.placement[kind])
                }
                #expect(placement.cacheHeads == plan.placement.cacheHeads)
                #expect(request.weightArguments.count < 120, "\(request.weightArguments)")
            }
        }
    }

    @Test func `every cut of every published size has a percentage, of two decimals`() {
        for shape in ModelShape.published {
            for (count, unit) in [(shape.headCount, 1), (shape.feedForwardSize, 64), (50272, 64)] {
                for boundary in Array(stride(from: 0, to: count, by: unit)) + [count] {
                    let percent = TierShares.percentCutting(boundary, of: count, unit: unit)
                    #expect(RangeSplit.boundary(percent: percent, count: count, unit: unit) == boundary)
                    #expect((percent * 100).rounded() / 100 == percent)
                }
            }
        }
    }

    @Test func `without a GPU the CPU computes everything, with all cores`() throws {
        let planner = planner(.opt6_7B, gpuGibibytes: 0, cpuGibibytes: 14, on: .xeon)
        let plan = try planner.plan()
        #expect(plan.placement.gpuComputesNothing && plan.request.cache == .allOnCPU)
        #expect(plan.threadCount == 16 && plan.allStreamed == nil && plan.allOnCPU == plan.prediction)
        #expect(plan.prediction.decodeStep.gpuSeconds == 0 && plan.prediction.decodeStep.joinSeconds == 0)
        #expect(plan.prediction.decodeStep.waitedFor == .cpu)
        let short = self.planner(.opt6_7B, gpuGibibytes: 100, cpuGibibytes: 12, on: .xeon)
        let error = placementError { _ = try short.plan() }
        #expect(error?.code == .outOfMemory && error?.suggestion == nil)
        #expect(
            error?.description.hasPrefix("the model does not fit: CPU memory needs 12.6") == true)
    }

    @Test func `where nothing fits the sentence is that of any placement`() throws {
        for shape in [ModelShape.opt125M, .opt175B] {
            var planner = planner(shape, gpuGibibytes: 0)
            planner = PlacementPlanner(
                shape: shape,
                budget: MemoryBudget(gpuByteCount: 1 << 20, cpuByteCount: 1 << 20, diskByteCount: 1 << 20),
                working: planner.working, hardware: .h200, workload: planner.workload)
            let error = placementError { _ = try planner.plan() }
            let known = placementError {
                _ = try Placement.fitting(shape, planner.budget, planner.working)
            }
            #expect(error?.code == .outOfMemory && error == known)
        }
    }

    @Test func `what CPU memory has no room for goes to the disk, and the CPU computes none of it`() throws {
        for cpuGibibytes in [1.0, 6, 12] {
            for gpuGibibytes in [0.5, 4] {
                let planner = planner(
                    .opt6_7B, gpuGibibytes: gpuGibibytes, cpuGibibytes: cpuGibibytes, batchSize: 8)
                let plan = try planner.plan()
                try expectSound(plan, planner)
                let isOnDisk = LayerKind.allCases.contains {
                    plan.placement.weightByteCount($0, on: .disk) > 0
                }
                // 12.4 GiB of weights, 2.1 of cache and 1.0 for the ring and its buffers
                #expect(isOnDisk == (cpuGibibytes + gpuGibibytes < 14.5))
            }
        }
    }

    @Test func `a sweep over 21 percentages ends at both simple choices, with its least between them`() throws
    {
        let planner = planner(.opt6_7B, gpuGibibytes: 1)
        let plan = try planner.plan()
        let percents = stride(from: 0.0, through: 100, by: 5).map { $0 }
        let points = try planner.sweep(computationPercents: percents)
        #expect(points.map(\.computationPercent) == percents)
        #expect(points.first?.prediction == plan.allOnCPU && points.last?.prediction == plan.allStreamed)
        let first = try #require(points.first?.placement)
        #expect(
            first.request.weights == PerLayerKind(repeating: .allOnCPU) && first.request.cache == .allOnCPU)
        let seconds = try points.map { try #require($0.prediction?.decodeStep.seconds) }
        let least = try #require(seconds.min())
        let index = try #require(seconds.firstIndex(of: least))
        #expect(percents[index] >= 30 && percents[index] <= 50)
        #expect(seconds[...index] == seconds[...index].sorted(by: >)[...])
        #expect(seconds[index...] == ArraySlice(seconds[index...].sorted()))
        #expect(plan.prediction.decodeStep.seconds <= least)
        let error = placementError { _ = try planner.sweep(computationPercents: [101]) }
        #expect(error?.code == .invalidPercent)
        let none = self.planner(.opt6_7B, gpuGibibytes: 1, cpuGibibytes: 1)
        #expect(try none.sweep(computationPercents: [40]).map(\.prediction) == [nil])
    }

    @Test func `a faster CPU gets more of the work, a faster PCIe less`() throws {
        func cpuBytes(_ change: (inout HardwareProfile) -> Void) throws -> Int {
            var hardware = HardwareProfile.h200
            change(&hardware)
            let placement = try planner(.opt6_7B, gpuGibibytes: 1, on: hardware).plan().placement
            return [LayerKind.outputEmbedding, .attention, .mlp].reduce(0) {
                $0 + placement.byteCount($1, placement[$1].cpuComputed)
            }
        }
        let asIs = try cpuBytes { _ in }
        let fastCPU = try cpuBytes {
            $0.processor.memoryReadBytesPerSecond *= 2
            $0.together?.memoryReadBytesPerSecond *= 2
        }
        let fastPCIe = try cpuBytes {
            $0.gpu?.uploadBytesPerSecond *= 2
            $0.together?.uploadBytesPerSecond *= 2
        }
        #expect(fastPCIe < asIs && asIs < fastCPU)
    }
}

extension Placement {
    fileprivate var allWeightByteCount: Int {
        LayerKind.allCases.reduce(0) { $0 + byteCount($1, 0..<self[$1].count) }
    }
}
