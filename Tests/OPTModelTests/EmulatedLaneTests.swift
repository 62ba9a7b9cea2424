import CPUKernels
import Placement
import Testing

@testable import OPTModel

/// Tests with the emulated GPU, one after the other: what it does is a setting of the process.
@Suite(.serialized) struct EmulatedGPUTests {}

extension EmulatedGPUTests {
    /// The GPU lane on the emulated GPU: placements, pieces, streaming, the disk and the steps' input, on any machine.
    @Suite(.serialized) struct LaneTests {
        static let cases = GoldenCase.all.filter {
            $0.checkpoint.hasPrefix("safetensors") && $0.name != "storybook"
        }

        @Test(arguments: cases, GPUGoldenTests.placements)
        func `greedy tokens are those of transformers, wherever the weights lie`(
            golden: GoldenCase, placement: [Double]
        ) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            let model = try LoadedModel(
                golden.folder, onGPU: try PlacementRequest(perLayerPercent: placement),
                context: try EmulatedGPU.context())
            // A prompt alone, then all of them as a ragged batch.
            let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: 8)
            #expect(alone.tokens[0] == Array(golden.prompts[3].tokens.prefix(8)))
            #expect(relativeError(alone.firstLogits[0], try golden.logits(3).first) < GoldenTests.tolerance)
            let batch = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 6, choosesOnLane: true)
            for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                #expect(tokens == Array(prompt.tokens.prefix(6)))
            }
        }

        @Test(arguments: cases, [[0, 100], [50, 50], [67, 33]] as [[Double]])
        func `a cache in CPU memory gives the same tokens`(golden: GoldenCase, cache: [Double]) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            for placement in [GPUGoldenTests.placements[0], GPUGoldenTests.placements[4]] {
                let request = try PlacementRequest(perLayerPercent: placement, cachePercent: cache)
                let model = try LoadedModel(
                    golden.folder, onGPU: request, context: try EmulatedGPU.context())
                let result = try model.decodeGreedily(
                    golden.prompts.map(\.ids), steps: 8, choosesOnLane: true)
                for (tokens, prompt) in zip(result.tokens, golden.prompts) {
                    #expect(tokens == Array(prompt.tokens.prefix(8)))
                }
            }
        }
    }
}
