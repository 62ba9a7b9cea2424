import CUDA
import HostRuntime
import Placement
import SystemPackage
import Testing

@testable import OPTModel

/// The GPU lane against transformers' logits and tokens, wherever the weights lie.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct GPUGoldenTests {
    /// Weights of input embedding, output embedding, attention and MLP: GPU and CPU percent, the rest on disk.
    static let placements: [[Double]] = [
        [100, 0, 100, 0, 100, 0, 100, 0],
        [0, 100, 0, 100, 0, 100, 0, 100],
        [50, 50, 50, 50, 50, 50, 50, 50],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [30, 30, 30, 30, 30, 30, 30, 30],
        [100, 0, 0, 50, 34, 33, 70, 10],
    ]

    /// GPU and CPU percent of the cache, the rest on disk.
    static let cachesOnDisk: [[Double]] = [[0, 0], [40, 30], [0, 50], [100, 0]]

    @Test(arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, placements)
    func `logits and greedy tokens are those of transformers`(golden: GoldenCase, placement: [Double]) throws
    {
        let model = try LoadedModel(golden.folder, onGPU: try PlacementRequest(perLayerPercent: placement))
        for (index, prompt) in golden.prompts.enumerated() {
            let reference = try golden.logits(index)
            let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
            #expect(result.tokens[0] == prompt.tokens)
            #expect(relativeError(result.firstLogits[0], reference.first) < GoldenTests.tolerance)
            #expect(relativeError(result.lastLogits[0], reference.last) < GoldenTests.tolerance)
        }
    }

    @Test(
        arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") },
        [placements[0], placements[4]])
    func `a ragged batch that the GPU chooses for gives each prompt the tokens that it gets alone`(
        golden: GoldenCase, placement: [Double]
    ) throws {
        let model = try LoadedModel(golden.folder, onGPU: try PlacementRequest(perLayerPercent: placement))
        let result = try model.decodeGreedily(
            golden.prompts.map(\.ids), steps: golden.prompts[0].tokens.count, choosesOnLane: true)
        for (index, prompt) in golden.prompts.enumerated() {
            #expect(result.tokens[index] == prompt.tokens)
        }
    }

    @Test(arguments: placements)
    func `every weight that is not on the GPU is streamed once a pass, and no other`(placement: [Double])
        throws
    {
        let golden = try #require(GoldenCase.all.first { $0.name == "post-norm" })
        let model = try LoadedModel(golden.folder, onGPU: try PlacementRequest(perLayerPercent: placement))
        let weights = try #require(model.gpuWeights)
        var byCount: [Bool: Int] = [:]
        for block in weights.streamer?.blocks ?? [] {
            if case .disk = block.source { byCount[true, default: 0] += block.byteCount }
            if case .host(let runs) = block.source {
                byCount[false, default: 0] += block.byteCount
                #expect(runs.reduce(0) { $0 + $1.count } == block.byteCount)
            }
        }
        #expect(byCount[false, default: 0] == weights.placement.streamedByteCount(from: .cpu))
        #expect(byCount[true, default: 0] == weights.placement.streamedByteCount(from: .disk))
        let heads = weights.layers.map { $0.attention.reduce(0) { $0 + $1.heads.count } }
        #expect(heads.allSatisfy { $0 == model.configuration.headCount })
        let neurons = weights.layers.map { $0.mlp.reduce(0) { $0 + $1.neurons.count } }
        #expect(neurons.allSatisfy { $0 == model.configuration.feedForwardSize })
    }

    @Test(
        arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") },
        [[0, 100], [50, 50], [67, 33]] as [[Double]])
    func `a cache in CPU memory gives the same tokens`(golden: GoldenCase, cache: [Double]) throws {
        for placement in [Self.placements[0], Self.placements[4]] {
            let request = try PlacementRequest(perLayerPercent: placement, cachePercent: cache)
            let model = try LoadedModel(golden.folder, onGPU: request)
            let result = try model.decodeGreedily(
                golden.prompts.map(\.ids), steps: golden.prompts[0].tokens.count, choosesOnLane: true)
            for (index, prompt) in golden.prompts.enumerated() {
                #expect(result.tokens[index] == prompt.tokens)
            }
        }
    }

    @Test(arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, cachesOnDisk)
    func `a cache on disk gives the same tokens`(golden: GoldenCase, cache: [Double]) throws {
        for placement in [Self.placements[0], Self.placements[4]] {
            let request = try PlacementRequest(perLayerPercent: placement, cachePercent: cache)
            let model = try LoadedModel(golden.folder, onGPU: request)
            for _ in 0..<2 {
                let result = try model.decodeGreedily(
                    golden.prompts.map(\.ids), steps: golden.prompts[0].tokens.count, choosesOnLane: true)
                for (index, prompt) in golden.prompts.enumerated() {
                    #expect(result.tokens[index] == prompt.tokens)
                }
            }
        }
    }

    /// Fewer slots than layers: one holds several layers within a graph.
    @Test(arguments: [1, 2, 3])
    func `slots of the cache on disk change hands within a step`(slotCount: Int) throws {
        let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
        let request = try PlacementRequest(perLayerPercent: Self.placements[0], cachePercent: [0, 0])
        let model = try LoadedModel(
            golden.folder, onGPU: request, cacheSlotCount: slotCount, rowCapacity: 24)
        let result = try model.decodeGreedily(
            golden.prompts.map(\.ids), steps: golden.prompts[0].tokens.count, choosesOnLane: true)
        for (index, prompt) in golden.prompts.enumerated() {
            #expect(result.tokens[index] == prompt.tokens)
        }
    }

    @Test(
        arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") },
        CPUCacheAttentionCases.caches)
    func `the processor's attention over the cache in CPU memory gives the same tokens`(
        golden: GoldenCase, cache: [Double]
    ) throws {
        for placement in CPUCacheAttentionCases.placements {
            let request = try PlacementRequest(perLayerPercent: placement, cachePercent: cache)
            let model = try LoadedModel(golden.folder, onGPU: request, cpu: LoadedModel.CPUPart())
            #expect(model.gpuLane?.usesCPU == true)
            for prompts in [golden.prompts, [golden.prompts[1]], golden.prompts] {
                let result = try model.decodeGreedily(
                    prompts.map(\.ids), steps: prompts[0].tokens.count, choosesOnLane: true)
                for (tokens, prompt) in zip(result.tokens, prompts) { #expect(tokens == prompt.tokens) }
            }
        }
    }

    @Test(
        arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, CPUShareCases.splits)
    func `greedy tokens are those of transformers, whoever computes what`(
        golden: GoldenCase, split: CPUShareCases.Split
    ) throws {
        let model = try LoadedModel(golden.folder, onGPU: try split.request, cpu: LoadedModel.CPUPart())
        for prompts in [golden.prompts, [golden.prompts[1]]] {
            let result = try model.decodeGreedily(
                prompts.map(\.ids), steps: prompts[0].tokens.count, choosesOnLane: true)
            for (tokens, prompt) in zip(result.tokens, prompts) { #expect(tokens == prompt.tokens) }
        }
    }

    @Test(
        arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, RebalancingCases.splits)
    func `tokens stay those of transformers wherever the boundary moves`(
        golden: GoldenCase, split: (weights: Double, computation: Double, slotCount: Int)
    ) throws {
        let request = try CPUShareCases.Split(
            weights: split.weights, computation: split.computation, cache: split.weights
        ).request
        let model = try LoadedModel(
            golden.folder, onGPU: request, stagingSlotCount: split.slotCount, cpu: LoadedModel.CPUPart(),
            rebalances: true)
        if model.gpuLane?.weights.boundary == nil { return }
        #expect(try RebalancingCases.check(model, golden).count > 1)
    }

    @Test(arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, CPUDiskCases.all)
    func `greedy tokens are those of transformers, whatever lies on disk`(
        golden: GoldenCase, split: CPUDiskCases.Case
    ) throws {
        let model = try LoadedModel(golden.folder, onGPU: try split.request, cpu: split.cpu)
        for prompts in [golden.prompts, [golden.prompts[1]], golden.prompts] {
            let result = try model.decodeGreedily(
                prompts.map(\.ids), steps: prompts[0].tokens.count, choosesOnLane: true)
            for (tokens, prompt) in zip(result.tokens, prompts) { #expect(tokens == prompt.tokens) }
        }
    }

    @Test(arguments: [false, true])
    func `an abort of the link in the middle of a generation is an error, not a hang`(isRecorded: Bool) throws
    {
        let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
        let request = try PlacementRequest(perLayerPercent: Self.placements[0], cachePercent: [0, 100])
        let model = try LoadedModel(golden.folder, onGPU: request, cpu: LoadedModel.CPUPart())
        try CPUCacheAttentionCases.expectError(ofAbortIn: model, golden, isRecorded: isRecorded)
    }

    @Test func `one staging slot gives the same tokens as four`() throws {
        let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
        let request = try PlacementRequest(perLayerPercent: Self.placements[4])
        for slotCount in [1, 4, 7] {
            let model = try LoadedModel(golden.folder, onGPU: request, stagingSlotCount: slotCount)
            let result = try model.decodeGreedily(
                [golden.prompts[0].ids], steps: golden.prompts[0].tokens.count)
            #expect(result.tokens[0] == golden.prompts[0].tokens)
        }
    }

    @Test func `a join of both lanes takes some microseconds`() throws {
        let seconds = try GPUBandwidth(Context(device: CUDADriver.load().device())).joinSeconds()
        #expect(seconds > 1e-6 && seconds < 50e-6, "\(seconds * 1e6) µs")
    }

    @Test func `memory is made and freed while a step waits for its weights`() async throws {
        let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
        let allocations = Task.detached {
            let context = try Context(device: CUDADriver.load().device())
            while !Task.isCancelled {
                _ = try DeviceBuffer(byteCount: 64 << 20, context: context)
                _ = try PinnedBuffer(try HostBuffer(byteCount: 1 << 20), context: context)
                await Task.yield()
            }
        }
        let model = try LoadedModel(
            golden.folder, onGPU: try PlacementRequest(perLayerPercent: Self.placements[1]))
        let start = ContinuousClock.now
        for prompt in golden.prompts {
            let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
            #expect(result.tokens[0] == prompt.tokens)
        }
        #expect(ContinuousClock.now - start < .seconds(20))
        allocations.cancel()
        try await allocations.value
    }
}
