import Testing

@testable import Placement

struct MemoryTests {
    private static let gibibyte = 1 << 30

    private var working: WorkingMemory {
        var working = WorkingMemory()
        working.cachePositionCount = 544
        working.stagingSlotByteCount = 64 << 20
        working.stagingSlotCount = 4
        working.gpuScratchByteCount = 100 << 20
        working.readBufferByteCount = 48 << 20
        working.cpuReadBufferByteCount = 49 << 20
        return working
    }

    @Test func `opt-6.7b needs the bytes that a hand counts`() throws {
        let all = MemoryDemand(Placement(.opt6_7B, try .alike(100, 0)), working)
        #expect(all.byteCount(on: .gpu, for: .weights(.attention)) == 4 << 30)
        #expect(all.byteCount(on: .gpu, for: .weights(.mlp)) == 8 << 30)
        #expect(all.byteCount(on: .gpu, for: .weights(.outputEmbedding)) == 411_828_224)
        #expect(all.byteCount(on: .gpu, for: .weights(.inputEmbedding)) == 16_793_600)
        // 13 hidden sizes for each of 32 layers, and 2 at the end, 4 bytes each
        #expect(all.byteCount(on: .gpu, for: .biasesAndNorms) == 6_848_512)
        // 544 positions of 32 layers, keys and values, 4096 wide, 2 bytes each
        #expect(all.byteCount(on: .gpu, for: .cache) == 285_212_672)
        #expect(all.byteCount(on: .gpu, for: .stagingRing) == 0)
        #expect(all.byteCount(on: .gpu) == 12_884_901_888 + 720_683_008 + 104_857_600)
        #expect(all.byteCount(on: .cpu) == 0 && all.byteCount(on: .disk) == 0)

        let mixed = MemoryDemand(
            Placement(
                .opt6_7B,
                try PlacementRequest(
                    perLayerPercent: [0, 100, 0, 100, 30, 30, 30, 30], cachePercent: [50, 25])), working)
        // 10 of 32 heads; 4928 of 16384 neurons; 16 heads' cache; the ring
        #expect(mixed.byteCount(on: .gpu, for: .weights(.attention)) == 1_342_177_280)
        #expect(mixed.byteCount(on: .gpu, for: .weights(.mlp)) == 2_583_691_264)
        #expect(mixed.byteCount(on: .gpu, for: .cache) == 142_606_336)
        #expect(mixed.byteCount(on: .gpu, for: .stagingRing) == 268_435_456)
        #expect(
            mixed.byteCount(on: .gpu)
                == 1_342_177_280 + 2_583_691_264 + 142_606_336 + 268_435_456 + 6_848_512 + 104_857_600)
        // 9 heads, 77 units of neurons, both tables, 8 heads' cache, the read buffers
        #expect(
            mixed.byteCount(on: .cpu)
                == 9 * 134_217_728 + 77 * 64 * 524_288 + 428_621_824 + 71_303_168 + 50_331_648)
        #expect(mixed.byteCount(on: .disk) == 13 * 134_217_728 + 102 * 64 * 524_288 + 71_303_168)
        #expect(mixed.items.map(\.tier) == mixed.items.map(\.tier).sorted { $0.order < $1.order })
    }

    @Test func `a cache on disk needs slots in CPU memory for its layers, and no read buffers`() throws {
        var working = working
        working.cacheSlotCount = 4
        func demand() throws -> MemoryDemand {
            MemoryDemand(
                Placement(
                    .opt6_7B,
                    try PlacementRequest(
                        perLayerPercent: [100, 0, 100, 0, 100, 0, 100, 0], cachePercent: [50, 25])), working)
        }
        // 8 of 32 heads on disk, 4 of 32 layers of them in slots
        let four = try demand()
        #expect(four.byteCount(on: .disk) == 71_303_168)
        #expect(four.byteCount(on: .cpu, for: .cacheSlots) == 71_303_168 / 8)
        #expect(four.byteCount(on: .cpu) == 71_303_168 + 71_303_168 / 8)
        working.cacheSlotCount = 100
        #expect(try demand().byteCount(on: .cpu, for: .cacheSlots) == 71_303_168)
    }

    @Test func `350m's projections are whole on the GPU, and the CPU copies biases only where it computes`()
        throws
    {
        let shape = ModelShape.opt350M
        let placement = Placement(shape, try .alike(0, 100))
        let demand = MemoryDemand(placement, WorkingMemory())
        #expect(demand.byteCount(on: .gpu, for: .projections) == 2 * 1024 * 512 * 2)
        #expect(demand.byteCount(on: .gpu, for: .biasesAndNorms) == 24 * 13 * 1024 * 4)
        #expect(demand.byteCount(on: .cpu, for: .weights(.outputEmbedding)) == 50272 * 512 * 2)
        #expect(demand.byteCount(on: .cpu, for: .biasesAndNorms) == 0)
        let balanced = try PlacementRequest(
            perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
            perLayerComputationPercent: [100, 100, 40, 40])
        let both = MemoryDemand(Placement(shape, balanced), WorkingMemory())
        #expect(both.byteCount(on: .cpu, for: .biasesAndNorms) == 24 * 13 * 1024 * 4)
        var galactica = shape
        galactica.hasBiases = false
        #expect(galactica.vectorByteCount == 24 * 4 * 1024 * 4)
    }

    @Test func `each side that takes weights from the disk has read buffers of its own`() throws {
        for (computation, gpu, cpu) in [(100.0, 48, 0), (80, 48, 49), (60, 0, 49), (50, 0, 49)] {
            let request = try PlacementRequest(
                perLayerWeightPercent: [100, 0, 0, 60, 0, 60, 0, 60],
                perLayerComputationPercent: [100, computation, computation, computation])
            let demand = MemoryDemand(Placement(.opt6_7B, request), working)
            #expect(demand.byteCount(on: .cpu, for: .readBuffers) == gpu << 20, "\(computation)")
            #expect(demand.byteCount(on: .cpu, for: .cpuReadBuffers) == cpu << 20, "\(computation)")
        }
    }

    @Test func `what fits passes, to the byte, and one byte less is an error`() throws {
        let placement = Placement(.opt6_7B, try .alike(40, 30))
        let demand = MemoryDemand(placement, working)
        var budget = MemoryBudget(
            gpuByteCount: demand.byteCount(on: .gpu), cpuByteCount: demand.byteCount(on: .cpu),
            diskByteCount: demand.byteCount(on: .disk))
        try budget.check(placement, working)
        budget.gpuByteCount -= 1
        #expect(throws: PlacementError.self) { try budget.check(placement, working) }
        budget.gpuByteCount += 1
        budget.cpuByteCount -= 1
        #expect(throws: PlacementError.self) { try budget.check(placement, working) }
        budget.cpuByteCount += 1
        budget.diskByteCount -= 1
        #expect(throws: PlacementError.self) { try budget.check(placement, working) }
    }

    @Test func `sizes are written in GiB, below one in MiB`() {
        let sizes: [(Int, String)] = [
            (0, "0.0 MiB"), (25 << 20, "25.0 MiB"), (1023 << 20, "1023.0 MiB"), (1 << 30, "1.00 GiB"),
            (13_261_000_000, "12.35 GiB"),
        ]
        for (byteCount, text) in sizes { #expect(byteCount.byteSize() == text) }
        #expect((1 << 20 + 1).byteSize(rounding: .up) == "1.1 MiB")
        #expect((2 << 20 - 1).byteSize(rounding: .down) == "1.9 MiB")
        #expect((1 << 20 + 1 << 14).byteSize(decimals: 3) == "1.02 MiB")
        #expect((5 << 28).byteSize(decimals: 3) == "1.250 GiB")
    }

    @Test func `what a small model needs is said in MiB, all of it`() throws {
        let budget = MemoryBudget(gpuByteCount: 100 << 20, cpuByteCount: 0, diskByteCount: 0)
        let error = placementError {
            try budget.check(Placement(.opt125M, try .alike(100, 0)), WorkingMemory())
        }
        #expect(
            error?.reason
                == "the model does not fit: the GPU needs 239.2 MiB (position table 3.0, token table 73.6, "
                + "self-attention 54.0, MLP 108.0, biases and norms 0.5) and has 100.0 MiB free")
    }

    @Test func `the error says what is needed and free, and what would fit`() throws {
        let budget = MemoryBudget(gpuByteCount: 10 << 30, cpuByteCount: 64 << 30, diskByteCount: 0)
        let error = placementError { try budget.check(Placement(.opt6_7B, try .alike(100, 0)), working) }
        #expect(error?.code == .outOfMemory)
        // All but attention and MLP and the ring leave 10 − 0.77 − 0.25 GiB, of 12: 74.8 %
        #expect(
            error?.description
                == "the model does not fit: the GPU needs 12.77 GiB (position table 0.02, token table 0.38, "
                + "self-attention 4.00, MLP 8.00, cache 0.27, biases and norms 0.01, scratch 0.10) and has 10.00 GiB "
                + "free; --per-layer-percent 100 0 100 0 74 26 74 26 would fit")
        try expectLargest(error, budget)

        let both = MemoryBudget(gpuByteCount: 5 << 30, cpuByteCount: 2 << 30, diskByteCount: 100 << 30)
        let two = placementError { try both.check(Placement(.opt6_7B, try .alike(50, 50)), working) }
        #expect(two?.description.contains("GiB free; CPU memory needs 6.20 GiB (") == true)
        #expect(two?.description.contains("(position table 0.01, token table 0.19,") == true)
        #expect(two?.reason.contains("; CPU memory needs") == true)
        #expect(two?.reason.contains("would fit") == false && two?.advice?.hasSuffix(" would fit") == true)
        try expectLargest(two, both)

        let tiny = MemoryBudget(gpuByteCount: 5 << 30, cpuByteCount: 2 << 30, diskByteCount: 0)
        let none = placementError { try tiny.check(Placement(.opt6_7B, try .alike(50, 50)), working) }
        #expect(none?.suggestion == nil)
        #expect(none?.description.contains("no percentages would fit: take a smaller model") == true)
    }

    @Test func `suggestions fit and one percent more does not, for every size and many budgets`() throws {
        for shape in ModelShape.published {
            let weights = MemoryDemand(Placement(shape, try .alike(100, 0)), WorkingMemory()).byteCount(
                on: .gpu)
            for gpuShare in [0.1, 0.45, 0.9, 1.03] {
                for cpuShare in [0.05, 0.4, 1.5] {
                    let budget = MemoryBudget(
                        gpuByteCount: Int(Double(weights) * gpuShare) + 700 << 20,
                        cpuByteCount: Int(Double(weights) * cpuShare) + 48 << 20, diskByteCount: 2 * weights)
                    for request in [try PlacementRequest.alike(100, 0), try .alike(0, 100)] {
                        let error = placementError { try budget.check(Placement(shape, request), working) }
                        if error != nil { try expectLargest(error, budget, shape) }
                    }
                }
            }
        }
    }

    @Test func `embeddings, then the cache, leave the GPU where nothing fits beside them`() throws {
        var working = working
        working.cachePositionCount = 24 * 2048
        let asked = Placement(.opt6_7B, try .alike(100, 0))
        // 24 GiB of cache and 0.1 of scratch, not the 0.4 GiB of the tables
        var budget = MemoryBudget(
            gpuByteCount: 24 << 30 + 400 << 20, cpuByteCount: 64 << 30, diskByteCount: 0)
        let tables = placementError { try budget.check(asked, working) }
        #expect(
            tables?.description.hasSuffix(
                "; --per-layer-percent 0 100 0 100 0 100 0 100 would fit") == true)
        budget.gpuByteCount = 13 << 30
        let cache = try #require(placementError { try budget.check(asked, working) })
        #expect(cache.description.hasSuffix(" would fit") && cache.description.contains("--cache-percent 5"))
        let suggestion = try #require(cache.suggestion)
        #expect(budget.holds(MemoryDemand(Placement(.opt6_7B, suggestion), working)))
    }

    @Test func `fitting takes the most that the GPU has room for`() throws {
        let roomy = MemoryBudget(gpuByteCount: 20 << 30, cpuByteCount: 0, diskByteCount: 0)
        #expect(try Placement.fitting(.opt6_7B, roomy, working).request == .alike(100, 0))
        let half = MemoryBudget(gpuByteCount: 7 << 30, cpuByteCount: 64 << 30, diskByteCount: 0)
        let placement = try Placement.fitting(.opt6_7B, half, working)
        #expect(placement.request.weightArguments == "--per-layer-percent 100 0 100 0 49 51 49 51")
        #expect(placement.request.cache == .allOnGPU)
        #expect(half.holds(MemoryDemand(placement, working)))
        let given = try TierShares(gpuPercent: 0, cpuPercent: 100)
        let withCache = try Placement.fitting(.opt6_7B, half, working, cache: given)
        #expect(withCache.request.cache == given)
        #expect(withCache.request.weights.attention.gpuPercent > 50)
        let none = MemoryBudget(gpuByteCount: 1 << 20, cpuByteCount: 1 << 20, diskByteCount: 1 << 20)
        let error = placementError { _ = try Placement.fitting(.opt175B, none, working) }
        #expect(error?.code == .outOfMemory)
        #expect(error?.description.hasPrefix("the model does not fit: the GPU needs 32") == true)
    }

    @Test func `fitting keeps within the computation asked`() throws {
        let budget = MemoryBudget(gpuByteCount: 80 << 30, cpuByteCount: 80 << 30, diskByteCount: 0)
        let placement = try Placement.fitting(
            .opt30B, budget, working,
            computation: PerLayerKind(inputEmbedding: 100, outputEmbedding: 50, attention: 62.5, mlp: 40))
        #expect(
            placement.request.weightArguments == "--per-layer-weight-percent 100 0 50 50 40 60 40 60")
        #expect(placement.request.cache == (try TierShares(gpuPercent: 62.5, cpuPercent: 37.5)))
    }

    /// Expects a suggestion that fits, and nothing with one percent more on the GPU, or more on the CPU, that does.
    private func expectLargest(
        _ error: PlacementError?, _ budget: MemoryBudget, _ shape: ModelShape = .opt6_7B,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let found = try #require(error?.suggestion, sourceLocation: sourceLocation)
        func fits(gpu: Double, cpu: Double) throws -> Bool {
            var weights = found.weights
            weights.attention = try TierShares(gpuPercent: gpu, cpuPercent: cpu)
            weights.mlp = weights.attention
            let request = try PlacementRequest(weights: weights, cache: found.cache)
            return budget.holds(MemoryDemand(Placement(shape, request), working))
        }
        let shares = found.weights.attention
        #expect(try fits(gpu: shares.gpuPercent, cpu: shares.cpuPercent), sourceLocation: sourceLocation)
        #expect(found.weights.mlp == shares, sourceLocation: sourceLocation)
        if shares.diskPercent > 0 {
            #expect(
                try !fits(gpu: shares.gpuPercent, cpu: shares.cpuPercent + 1), sourceLocation: sourceLocation)
        }
        for gpu in stride(from: shares.gpuPercent + 1, through: 100, by: 1) {
            for cpu in stride(from: 0, through: 100 - gpu, by: 1) where try fits(gpu: gpu, cpu: cpu) {
                Issue.record(
                    "\(gpu) % and \(cpu) % fit too, not only \(shares)", sourceLocation: sourceLocation)
            }
        }
    }
}

extension Tier {
    fileprivate var order: Int { Tier.allCases.firstIndex(of: self)! }
}
