import Glibc
import HostRuntime
import Placement
import Synchronization
import Testing

@testable import OPTModel

/// Where weights and cache lie, on disk too, and who computes with them, on the emulated GPU and on a real one.
enum CPUDiskCases {
    struct Case: Sendable, CustomStringConvertible {
        /// GPU and CPU percent of every kind of weight, and of the cache; the rest is on disk.
        var weights, cache: [Double]
        /// The GPU's percent.
        var computation: Double
        var computesCache = false
        var workerCount = 2

        var description: String {
            "weights \(weights), computation \(computation), cache \(cache)"
                + (computesCache ? ", cache computed by the CPU" : "") + ", \(workerCount) threads"
        }

        var request: PlacementRequest {
            get throws {
                try PlacementRequest(
                    perLayerWeightPercent: (0..<4).flatMap { _ in weights },
                    perLayerComputationPercent: [Double](repeating: computation, count: 4),
                    cachePercent: cache)
            }
        }

        var cpu: LoadedModel.CPUPart {
            LoadedModel.CPUPart(workerCount: workerCount, computesCache: computesCache)
        }
    }

    static let all = [
        // The CPU has all of it on disk, and computes all or half.
        Case(weights: [0, 0], cache: [0, 100], computation: 0, workerCount: 3),
        Case(weights: [0, 0], cache: [0, 0], computation: 50),
        // A part of it in memory and a part on disk, of weights and cache.
        Case(weights: [0, 50], cache: [0, 50], computation: 0, workerCount: 1),
        Case(weights: [0, 70], cache: [0, 70], computation: 34, computesCache: true, workerCount: 3),
        // The GPU streams from memory and from disk.
        Case(weights: [0, 30], cache: [0, 30], computation: 60, computesCache: true),
        // In CPU memory alone, but the cache on disk, or computed where it lies.
        Case(weights: [40, 60], cache: [0, 0], computation: 40, workerCount: 3),
        Case(weights: [40, 60], cache: [0, 100], computation: 67, computesCache: true, workerCount: 1),
    ]
}

extension EmulatedGPUTests {
    /// The processor's part of decode steps where weights or cache lie on disk, and where it computes on the GPU's cache too.
    @Suite(.serialized, .timeLimit(.minutes(5))) struct CPUDiskTests {
        private func concurrently<Result>(_ body: () throws -> Result) throws -> Result {
            EmulatedGPU.isConcurrent = true
            EmulatedGPU.hostCacheDecodeCount = 0
            defer { EmulatedGPU.isConcurrent = false }
            return try body()
        }

        private func model(_ golden: GoldenCase, _ split: CPUDiskCases.Case, rowCapacity: Int = 2048) throws
            -> LoadedModel
        {
            try LoadedModel(
                golden.folder, onGPU: try split.request, rowCapacity: rowCapacity,
                context: try EmulatedGPU.context(), cpu: split.cpu)
        }

        private static let preNorm = GoldenCase.all.first { $0.name == "pre-norm" }!

        private static let goldens = LaneTests.cases.filter {
            ["pre-norm", "post-norm", "odd", "opt-iml", "galactica"].contains($0.name)
        }

        @Test(arguments: goldens, CPUDiskCases.all)
        func `greedy tokens are those of transformers, whatever lies on disk`(
            golden: GoldenCase, split: CPUDiskCases.Case
        ) throws {
            try concurrently {
                let model = try model(golden, split)
                let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: 8)
                #expect(alone.tokens[0] == Array(golden.prompts[3].tokens.prefix(8)))
                #expect(
                    relativeError(alone.firstLogits[0], try golden.logits(3).first) < GoldenTests.tolerance)
                let batch = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 6, choosesOnLane: true)
                for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                    #expect(tokens == Array(prompt.tokens.prefix(6)))
                }
            }
        }

        @Test func `the cases are what they are called`() throws {
            func lane(_ index: Int) throws -> GPULane {
                try #require(try model(Self.preNorm, CPUDiskCases.all[index]).gpuLane)
            }
            try concurrently {
                let disk = try #require(try lane(0).weights.cpuDisk)
                #expect(disk.attention.count == 2 && !disk.mlp[1].isEmpty && !disk.logits.isEmpty)
                let both = try #require(try lane(2).cpuShare)
                #expect(both.attentionPieces[0].map(\.range) == [0..<1, 1..<2])
                #expect(both.mlpPieces[1].count > 1 && both.logitsPieces.count > 1)
                let streaming = try lane(4)
                #expect(streaming.weights.streamer != nil && streaming.weights.cpuDisk != nil)
                let cached = try lane(6)
                #expect(cached.computesCacheOnCPU && cached.cpuPart is CPUShareAndCache)
                #expect(try lane(5).computesCacheOnCPU == false)
            }
        }

        /// Sequences that pause, that go on by one token or by many, in passes that cut them and have no logits, and that stray
        /// and come back: every pass takes every block once, whoever computes with it.
        @Test(arguments: [1, 3])
        func `what was read ahead is right in any order of steps`(index: Int) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "odd" })
            try concurrently {
                let model = try model(golden, CPUDiskCases.all[index], rowCapacity: 24)
                var decoding = try ForcedDecoding(model, golden)
                let sequences = golden.prompts.indices
                var random = SystemRandomNumberGenerator()
                while decoding.isUnfinished {
                    if Int.random(in: 0..<6, using: &random) == 0 {
                        try decoding.stray(by: sequences.map { _ in Int.random(in: 0..<30, using: &random) })
                    }
                    let most = Bool.random(using: &random) ? 1 : 30
                    let counts = sequences.map { _ in Int.random(in: 0...most, using: &random) }
                    #expect(try decoding.advance(by: counts) == [])
                }
                #expect(decoding.comparisonCount > 5)
            }
        }

        @Test func `a recorded step with both of the processor's parts goes through, with their spans`()
            throws
        {
            let golden = try #require(GoldenCase.all.first { $0.name == "opt-iml" })
            try concurrently {
                // Two pieces of heads on the GPU, each with an exchange.
                let split = CPUDiskCases.Case(
                    weights: [25, 50], cache: [0, 75], computation: 50, computesCache: true, workerCount: 3)
                let model = try model(golden, split)
                let lane = try #require(model.gpuLane)
                #expect(lane.weights.layers[0].attention.count == 2)
                let timeline = try lane.startTimeline()
                let result = try model.decodeGreedily([golden.prompts[3].ids], steps: 5)
                #expect(result.tokens[0] == Array(golden.prompts[3].tokens.prefix(5)))
                let names = timeline.spans().filter { $0.track == .cpu }.map(\.name)
                let attention = Array(repeating: "self-attention", count: 3)
                let step = (attention + ["MLP"]) + (attention + ["MLP"]) + ["logits"]
                #expect(names == Array(repeating: step, count: 4).flatMap { $0 })
                #expect(timeline.spans().contains { $0.track == .disk && $0.name == "read" })
                #expect(EmulatedGPU.hostCacheDecodeCount == 0)
            }
        }

        // MARK: What goes wrong

        /// What is read from then on ends at once.
        private func breakDisk(of model: LoadedModel) throws {
            let file = try #require(model.gpuWeights?.file)
            let replacement = open("/dev/null", O_RDWR)
            #expect(dup2(replacement, file.descriptor) == file.descriptor)
            close(replacement)
        }

        /// Waits for no thread that hangs, as their pool would.
        private func expectThreadsAreFree(_ model: LoadedModel) {
            final class Count: Sendable { let value = Atomic<Int>(0) }
            let count = Count()
            let pool = model.pool
            let thread = startThread {
                pool.forEachWorker { _ in count.value.wrappingAdd(1, ordering: .relaxed) }
            }
            let start = ContinuousClock.now
            while count.value.load(ordering: .relaxed) < pool.workerCount {
                guard start.duration(to: .now) < .seconds(10) else {
                    Issue.record(
                        "\(count.value.load(ordering: .relaxed)) of \(pool.workerCount) threads came")
                    return
                }
                usleep(100)
            }
            pthread_join(thread, nil)
        }

        @Test(arguments: [1, 3], [false, true])
        func `a disk that fails in the middle of a generation is an error, not a hang`(
            workerCount: Int, isRecorded: Bool
        ) throws {
            try concurrently {
                var split = CPUDiskCases.all[1]
                split.workerCount = workerCount
                split.cache = [0, 100]
                let model = try model(Self.preNorm, split)
                if isRecorded { _ = try model.gpuLane?.startTimeline() }
                _ = try model.decodeGreedily([Self.preNorm.prompts[0].ids], steps: 3)
                let start = ContinuousClock.now
                try breakDisk(of: model)
                for _ in 0..<2 {
                    let error = #expect(throws: ModelError.self) {
                        try model.decodeGreedily([Self.preNorm.prompts[0].ids], steps: 10)
                    }
                    #expect(error?.code == .offload)
                    #expect(error?.description.contains("reading offloaded weights") == true, "\(error!)")
                }
                #expect(start.duration(to: .now) < .seconds(10))
            }
        }

        /// The GPU streams nothing: it is the step itself that waits for the disk.
        @Test func `a disk that fails within a decode step ends it with the reader's sentence`() throws {
            try concurrently {
                let model = try model(Self.preNorm, CPUDiskCases.all[0])
                let state = try model.decoder.makeState(capacities: [40])
                _ = try model.decoder.prefill(
                    [[2, 5, 7]], state: state, isCancelled: Atomic<Bool>(false)
                ) { _, _ in }
                try breakDisk(of: model)
                state.isActive[0] = true
                let start = ContinuousClock.now
                let error = #expect(throws: ModelError.self) {
                    for _ in 0..<5 { try model.decoder.step(state) { _, _ in } }
                }
                #expect(error?.description.contains("the file ends early") == true, "\(error!)")
                #expect(start.duration(to: .now) < .seconds(10))
                expectThreadsAreFree(model)
            }
        }

        @Test(arguments: [3, 6], [false, true])
        func `an abort in the middle of a generation is an error, not a hang`(index: Int, isRecorded: Bool)
            throws
        {
            try concurrently {
                let model = try model(Self.preNorm, CPUDiskCases.all[index])
                try CPUCacheAttentionCases.expectError(
                    ofAbortIn: model, Self.preNorm, isRecorded: isRecorded)
                expectThreadsAreFree(model)
            }
        }

        @Test(arguments: [3, 5]) func `a recorded step that cannot be launched is an error, not a hang`(
            index: Int
        ) throws {
            try concurrently {
                let model = try model(Self.preNorm, CPUDiskCases.all[index])
                _ = try model.gpuLane?.startTimeline()
                let state = try model.decoder.makeState(capacities: [20])
                _ = try model.decoder.prefill(
                    [[2, 5, 7]], state: state, isCancelled: Atomic<Bool>(false)
                ) { _, _ in }
                state.isActive[0] = true
                EmulatedGPU.defect = .failing
                let error = #expect(throws: ModelError.self) { try model.decoder.step(state) { _, _ in } }
                EmulatedGPU.defect = .none
                #expect(error?.code == .gpu)
                expectThreadsAreFree(model)
                // The link says what happened.
                let later = #expect(throws: ModelError.self) {
                    try model.decodeGreedily([[2, 5, 7]], steps: 2)
                }
                #expect(later?.description.contains("the GPU stopped before a layer") == true, "\(later!)")
            }
        }
    }
}
