import AllocationsOfThreads
import Glibc
import HostRuntime
import Placement
import Synchronization
import Testing

@testable import OPTModel

/// Where weights lie and who computes with them in tests of the joined step, on the emulated GPU and on a real one.
enum CPUShareCases {
    /// The GPU's percentages of weights, computation and cache, the rest being the CPU's.
    struct Split: Sendable, CustomStringConvertible {
        var weights, computation, cache: Double

        var description: String { "weights \(weights), computation \(computation), cache \(cache)" }

        var request: PlacementRequest {
            get throws {
                try PlacementRequest(
                    perLayerWeightPercent: (0..<4).flatMap { _ in [weights, 100 - weights] },
                    perLayerComputationPercent: [Double](repeating: computation, count: 4),
                    cachePercent: [cache, 100 - cache])
            }
        }
    }

    static let splits: [Split] = [0.0, 30, 70, 100].flatMap { weights in
        [0.0, 40, 70, 100].filter { $0 >= weights }.flatMap { computation in
            Set([0, computation / 2, computation]).sorted().map {
                Split(weights: weights, computation: computation, cache: $0)
            }
        }
    }
}

extension EmulatedGPUTests {
    /// The GPU lane on the emulated GPU and the processor's threads, which compute every block together.
    @Suite(.serialized) struct CPUShareTests {
        private func concurrently<Result>(_ body: () throws -> Result) throws -> Result {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            return try body()
        }

        private func model(
            _ golden: GoldenCase, _ request: PlacementRequest,
            cpu: LoadedModel.CPUPart = LoadedModel.CPUPart()
        ) throws -> LoadedModel {
            try LoadedModel(golden.folder, onGPU: request, context: try EmulatedGPU.context(), cpu: cpu)
        }

        @Test(arguments: LaneTests.cases, CPUShareCases.splits)
        func `greedy tokens are those of transformers, whoever computes what`(
            golden: GoldenCase, split: CPUShareCases.Split
        ) throws {
            try concurrently {
                let model = try model(golden, try split.request)
                #expect((model.gpuLane?.cpuShare != nil) == (split.computation < 100))
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

        @Test(arguments: [1, 3, 5]) func `any number of threads gives the logits of transformers`(
            workerCount: Int
        ) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let split = CPUShareCases.Split(weights: 30, computation: 60, cache: 50)
                let model = try model(
                    golden, try split.request, cpu: LoadedModel.CPUPart(workerCount: workerCount))
                for (index, prompt) in golden.prompts.enumerated() {
                    let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
                    #expect(result.tokens[0] == prompt.tokens)
                    let reference = try golden.logits(index)
                    #expect(relativeError(result.lastLogits[0], reference.last) < GoldenTests.tolerance)
                }
            }
        }

        /// Each kind of layer is split by itself, at random, for a thousand steps in all.
        @Test func `random splits decode a thousand steps without a drift`() throws {
            let goldens = LaneTests.cases.filter { $0.name == "pre-norm" || $0.name == "post-norm" }
            var random = SystemRandomNumberGenerator()
            var stepCount = 0
            try concurrently {
                while stepCount < 1000 {
                    var weights: [Double] = []
                    var computation: [Double] = []
                    for _ in 0..<4 {
                        let share = Double.random(in: 0...100, using: &random).rounded()
                        weights += [share, 100 - share]
                        computation.append(Double.random(in: share...100, using: &random).rounded())
                    }
                    let cache = Double.random(in: 0...computation[2], using: &random).rounded()
                    let request = try PlacementRequest(
                        perLayerWeightPercent: weights, perLayerComputationPercent: computation,
                        cachePercent: [cache, 100 - cache])
                    let golden = goldens[stepCount % goldens.count]
                    let model = try model(golden, request)
                    for prompt in golden.prompts {
                        let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
                        #expect(result.tokens[0] == prompt.tokens, "\(weights) \(computation) \(cache)")
                        stepCount += prompt.tokens.count
                    }
                }
            }
        }

        /// A prefill between decode steps reads and writes what the processor has written.
        @Test func `further tokens of a prompt go through the GPU into the same cache`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            let prompt = golden.prompts[3]
            try concurrently {
                let split = CPUShareCases.Split(weights: 0, computation: 50, cache: 50)
                let model = try model(golden, try split.request)
                let state = try model.decoder.makeState(capacities: [prompt.ids.count + 12])
                var tokens: [Int32] = []
                func choose(_ sequence: Int, _ output: LaneOutput) {
                    guard case .logits(let logits) = output else { return }
                    tokens.append(Int32(logits.indices.max { logits[$0] < logits[$1] }!))
                }
                func prefill(_ ids: [Int32]) throws {
                    _ = try model.decoder.prefill(
                        [ids], state: state, isCancelled: Atomic<Bool>(false), choose)
                }
                func step(_ token: Int32) throws {
                    state.nextTokens[0] = token
                    state.isActive[0] = true
                    try model.decoder.step(state, choose)
                }
                try prefill(Array(prompt.ids.dropLast(2)))
                for token in prompt.ids.suffix(2) { try step(token) }
                tokens.removeFirst(2)
                try step(tokens[0])
                try prefill([tokens[1], prompt.tokens[2]])
                try step(prompt.tokens[3])
                #expect(tokens[0...1] == prompt.tokens[0...1])
                #expect(tokens[2...] == prompt.tokens[3...4])
            }
        }

        @Test func `a recorded step has a span of the processor for each block`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let split = CPUShareCases.Split(weights: 0, computation: 50, cache: 50)
                let model = try model(golden, try split.request)
                let lane = try #require(model.gpuLane)
                let timeline = try lane.startTimeline()
                let result = try model.decodeGreedily([golden.prompts[3].ids], steps: 5)
                #expect(result.tokens[0] == Array(golden.prompts[3].tokens.prefix(5)))
                let names = timeline.spans().filter { $0.track == .cpu }.map(\.name)
                let layerCount = model.configuration.layerCount
                let step = (0..<layerCount).flatMap { _ in ["self-attention", "MLP"] } + ["logits"]
                #expect(names == Array(repeating: step, count: 4).flatMap { $0 })
            }
        }

        // MARK: What goes wrong

        @Test(arguments: [false, true])
        func `a processor that is too slow is an error of this step and of all after it`(isRecorded: Bool)
            throws
        {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let request = try PlacementRequest(
                    perLayerWeightPercent: [100, 0, 100, 0, 50, 50, 50, 50],
                    perLayerComputationPercent: [100, 100, 50, 50], cachePercent: [50, 50])
                // No time at all.
                let model = try model(
                    golden, request,
                    cpu: LoadedModel.CPUPart(
                        linkLimits: LaneLink.TimeLimits(gpuSeconds: 0, hostSeconds: 30)))
                if isRecorded { _ = try model.gpuLane?.startTimeline() }
                for _ in 0..<2 {
                    let error = #expect(throws: ModelError.self) {
                        try model.decodeGreedily([golden.prompts[0].ids], steps: 40)
                    }
                    #expect(error?.description.contains("the GPU gave up waiting") == true, "\(error!)")
                }
            }
        }

        @Test(arguments: [false, true])
        func `an abort in the middle of a generation is an error, not a hang`(isRecorded: Bool) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let split = CPUShareCases.Split(weights: 0, computation: 50, cache: 50)
                try CPUCacheAttentionCases.expectError(
                    ofAbortIn: try model(golden, try split.request), golden, isRecorded: isRecorded)
            }
        }

        @Test func `a GPU that does nothing is an error, not a hang`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let split = CPUShareCases.Split(weights: 50, computation: 50, cache: 50)
                let model = try model(golden, try split.request)
                let state = try model.decoder.makeState(capacities: [20])
                _ = try model.decoder.prefill(
                    [[2, 5, 7]], state: state, isCancelled: Atomic<Bool>(false)
                ) { _, _ in }
                state.isActive[0] = true
                EmulatedGPU.defect = .idle
                defer { EmulatedGPU.defect = .none }
                let start = ContinuousClock.now
                let error = #expect(throws: ModelError.self) { try model.decoder.step(state) { _, _ in } }
                #expect(error?.description.contains("the GPU stopped before a layer") == true, "\(error!)")
                #expect(start.duration(to: .now) < .seconds(10))
            }
        }

        /// Steps of the processor's part alone, with a thread in the GPU's place; weights in CPU memory, and on disk.
        @Test(arguments: [100.0, 0])
        func `the processor's part of a step allocates nothing`(inMemory: Double) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let request = try PlacementRequest(
                    perLayerWeightPercent: (0..<4).flatMap { _ in [0, inMemory] },
                    perLayerComputationPercent: [50, 50, 50, 50], cachePercent: [50, 50])
                let model = try model(golden, request)
                #expect((model.gpuWeights?.cpuDisk == nil) == (inMemory == 100))
                let lane = try #require(model.gpuLane)
                let share = try #require(lane.cpuShare)
                share.isGPUAtWork = { true }
                let cache = try #require(try lane.makeCache(capacities: [100, 100]) as? GPUKVCache)
                let batch = StepBatch(rowCapacity: 2, segmentCapacity: 2)
                let link = share.link
                let blockCount = 2 * model.configuration.layerCount + 1
                let gpu = startThread {
                    for number: UInt32 in 1...65 {
                        for block in 0..<blockCount {
                            EmulatedGPU.flag(link.inputWordAddress(block)).pointee.store(
                                number, ordering: .releasing)
                            let answer = EmulatedGPU.flag(link.answerWordAddress(block))
                            while answer.pointee.load(ordering: .acquiring) != number && link.fault == nil {
                                sched_yield()
                            }
                        }
                    }
                }
                let token: Int32 = 5
                func step(_ number: Int) {
                    batch.removeAll()
                    withUnsafePointer(to: token) {
                        for sequence in 0..<2 {
                            batch.append(
                                UnsafeBufferPointer(start: $0, count: 1), sequence: sequence,
                                firstPosition: number, logitsCount: 1)
                        }
                    }
                    share.begin(batch, cache: cache, step: UInt32(number), timeline: nil)
                    model.pool.run(share)
                }
                step(1)
                let allocations = AllocationsOfThreads(model.pool).least(of: 8, model.pool) { round in
                    var index = 1
                    while index <= 8 {
                        step(1 + 8 * round + index)
                        index += 1
                    }
                }
                #expect(allocations == 0)
                pthread_join(gpu, nil)
                #expect(link.fault == nil)
            }
        }
    }
}
