import AllocationsOfThreads
import CUDA
import Glibc
import HostRuntime
import Placement
import Synchronization
import Testing

@testable import OPTModel

/// Where cache and weights lie in tests with the processor's attention, on the emulated GPU and on a real one.
enum CPUCacheAttentionCases {
    /// GPU and CPU percent of the cache, the rest on disk.
    static let caches: [[Double]] = [[0, 100], [50, 50], [30, 70], [0, 50]]
    /// All weights on the GPU, half of each, none: one piece of a layer's heads, and several.
    static let placements: [[Double]] = [
        [100, 0, 100, 0, 100, 0, 100, 0], [50, 50, 50, 50, 50, 50, 50, 50],
        [0, 100, 0, 100, 0, 100, 0, 100],
    ]

    /// Decodes until another thread has aborted the link.
    static func expectError(ofAbortIn model: LoadedModel, _ golden: GoldenCase, isRecorded: Bool) throws {
        let lane = try #require(model.gpuLane)
        let link = try #require(lane.cpuPart?.link)
        if isRecorded { _ = try lane.startTimeline() }
        _ = try model.decodeGreedily([golden.prompts[0].ids], steps: 4)
        let thread = startThread {
            usleep(30_000)
            link.abort(.gpuFailed)
        }
        let start = ContinuousClock.now
        let error = #expect(throws: ModelError.self) {
            while true { _ = try model.decodeGreedily([golden.prompts[0].ids], steps: 40) }
        }
        pthread_join(thread, nil)
        #expect(error?.description.contains("the GPU stopped before a layer") == true, "\(error!)")
        #expect(start.duration(to: .now) < .seconds(10))
    }
}

extension EmulatedGPUTests {
    /// The GPU lane on the emulated GPU, with the processor's threads computing attention over the cache in CPU memory.
    @Suite(.serialized) struct CPUCacheAttentionTests {
        private static let placements = CPUCacheAttentionCases.placements

        private func model(
            _ golden: GoldenCase, _ placement: [Double], cache: [Double],
            cpu: LoadedModel.CPUPart = LoadedModel.CPUPart()
        ) throws -> LoadedModel {
            try LoadedModel(
                golden.folder,
                onGPU: try PlacementRequest(perLayerPercent: placement, cachePercent: cache),
                context: try EmulatedGPU.context(), cpu: cpu)
        }

        private func concurrently<Result>(_ body: () throws -> Result) throws -> Result {
            EmulatedGPU.isConcurrent = true
            EmulatedGPU.hostCacheDecodeCount = 0
            defer { EmulatedGPU.isConcurrent = false }
            return try body()
        }

        @Test(arguments: LaneTests.cases, CPUCacheAttentionCases.caches)
        func `greedy tokens are those of transformers, wherever weights and cache lie`(
            golden: GoldenCase, cache: [Double]
        ) throws {
            try concurrently {
                for placement in Self.placements {
                    let model = try model(golden, placement, cache: cache)
                    #expect(model.gpuLane?.usesCPU == true)
                    // A prompt alone, then all of them as a ragged batch, then another alone, each with its own cache.
                    for index in [3, 1] {
                        let alone = try model.decodeGreedily([golden.prompts[index].ids], steps: 8)
                        #expect(alone.tokens[0] == Array(golden.prompts[index].tokens.prefix(8)))
                        let batch = try model.decodeGreedily(
                            golden.prompts.map(\.ids), steps: 6, choosesOnLane: true)
                        for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                            #expect(tokens == Array(prompt.tokens.prefix(6)))
                        }
                    }
                }
                // What lies on disk the GPU reads from its slots in the host's memory.
                #expect((EmulatedGPU.hostCacheDecodeCount == 0) == (cache.reduce(0, +) == 100))
            }
        }

        @Test(arguments: [1, 3, 5]) func `any number of threads gives the logits of transformers`(
            workerCount: Int
        ) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let model = try model(
                    golden, Self.placements[1], cache: [30, 70],
                    cpu: LoadedModel.CPUPart(workerCount: workerCount))
                for (index, prompt) in golden.prompts.enumerated() {
                    let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
                    #expect(result.tokens[0] == prompt.tokens)
                    let reference = try golden.logits(index)
                    #expect(relativeError(result.lastLogits[0], reference.last) < GoldenTests.tolerance)
                }
            }
        }

        @Test func `without the switch, and without a cache in CPU memory, the GPU computes alone`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let allOnGPU = try model(golden, Self.placements[0], cache: [100, 0])
                #expect(allOnGPU.gpuLane?.usesCPU == false)
                let request = try PlacementRequest(
                    perLayerPercent: Self.placements[0], cachePercent: [0, 100])
                let alone = try LoadedModel(
                    golden.folder, onGPU: request, context: try EmulatedGPU.context())
                #expect(alone.gpuLane?.usesCPU == false)
                _ = try alone.decodeGreedily([golden.prompts[0].ids], steps: 4)
                #expect(EmulatedGPU.hostCacheDecodeCount > 0)
            }
        }

        /// A prefill between decode steps reads and writes what the processor has written.
        @Test func `further tokens of a prompt go through the GPU into the same cache`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            let prompt = golden.prompts[3]
            try concurrently {
                let model = try model(golden, Self.placements[1], cache: [50, 50])
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
                // The prompt's last two tokens as decode steps; then four more, two of them as a prompt.
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

        @Test func `a recorded step has a span of the processor for each of its exchanges`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let model = try model(golden, Self.placements[1], cache: [0, 100])
                let lane = try #require(model.gpuLane)
                let timeline = try lane.startTimeline()
                // The prompt is more than one token, which would be a decode step.
                let result = try model.decodeGreedily([golden.prompts[3].ids], steps: 5)
                #expect(result.tokens[0] == Array(golden.prompts[3].tokens.prefix(5)))
                let spans = timeline.spans()
                let exchanged = lane.weights.layers.enumerated().flatMap { layer, weights in
                    weights.attention.filter { $0.heads.overlaps(lane.weights.placement.cacheHeads.cpu) }
                        .map { _ in layer }
                }
                let cpu = spans.filter { $0.track == .cpu }
                #expect(cpu.compactMap(\.layer) == Array(repeating: exchanged, count: 4).flatMap { $0 })
                #expect(cpu.allSatisfy { $0.seconds > 0 })
                let waits = spans.filter { $0.name == "waiting for the CPU" }
                #expect(waits.count == cpu.count && waits.allSatisfy { $0.track == .compute })
                let steps = spans.filter { $0.name == "decode step" }
                #expect(steps.count == 4)
                for span in cpu {
                    #expect(steps.contains { $0.start <= span.start && span.end <= $0.end })
                }
            }
        }

        // MARK: What goes wrong

        @Test(arguments: [false, true])
        func `a processor that is too slow is an error of this step and of all after it`(isRecorded: Bool)
            throws
        {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                // No time at all.
                let model = try model(
                    golden, Self.placements[0], cache: [0, 100],
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
                try CPUCacheAttentionCases.expectError(
                    ofAbortIn: try model(golden, Self.placements[1], cache: [0, 100]), golden,
                    isRecorded: isRecorded)
            }
        }

        @Test func `a GPU that does nothing is an error, not a hang`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let model = try model(golden, Self.placements[0], cache: [50, 50])
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

        // MARK: The processor's part alone

        /// Attention of a step, with this thread as the GPU, on made-up heads.
        @Test func `the processor's part of a step allocates nothing`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            let configuration = try OPTConfiguration(folder: golden.folder)
            let context = try EmulatedGPU.context()
            let pool = WorkerPool(workerCount: 2)
            let heads = 0..<configuration.headCount
            let attention = try CPUCacheAttention(
                configuration, pieces: Array(repeating: [heads], count: configuration.layerCount),
                heads: heads, workers: CPUWorkers(pool, kernels: fastestKernels!), rowCapacity: 4,
                context: context)
            let cache = try GPUKVCache(
                configuration, RangeSplit(try TierShares(gpuPercent: 0, cpuPercent: 100), count: heads.count),
                capacities: [100, 100], rowCapacity: 4,
                disk: DiskKVCache.Options(folder: "/var/tmp", slotCount: 1), context: context)
            let batch = StepBatch(rowCapacity: 2, segmentCapacity: 2)
            let token: Int32 = 5
            let link = attention.link
            let exchangeCount = configuration.layerCount
            // In the GPU's place: the next exchange when the last one is answered.
            let gpu = startThread {
                for number: UInt32 in 1...65 {
                    for exchange in 0..<exchangeCount {
                        EmulatedGPU.flag(link.inputWordAddress(exchange)).pointee.store(
                            number, ordering: .releasing)
                        let answer = EmulatedGPU.flag(link.answerWordAddress(exchange))
                        while answer.pointee.load(ordering: .acquiring) != number && link.fault == nil {
                            sched_yield()
                        }
                    }
                }
            }
            func step(_ number: Int) {
                batch.removeAll()
                withUnsafePointer(to: token) {
                    for sequence in 0..<2 {
                        batch.append(
                            UnsafeBufferPointer(start: $0, count: 1), sequence: sequence,
                            firstPosition: number, logitsCount: 1)
                    }
                }
                attention.begin(batch, cache: cache, step: UInt32(number), timeline: nil)
                pool.run(attention)
            }
            step(1)
            let allocations = AllocationsOfThreads(pool).least(of: 8, pool) { round in
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
