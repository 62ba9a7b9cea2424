import CUDA
import Placement
import SystemPackage
import Testing

@testable import OPTModel

/// The GPU lane against transformers' logits and tokens, wherever the weights lie.
@Suite(.serialized, .enabled(if: GPUMachine.isPresent, "there is no GPU")) struct GPUGoldenTests {
    /// Weights of input embedding, output embedding, attention and MLP: GPU and CPU percent, the rest on disk.
    static let placements: [[Double]] = [
        [100, 0, 100, 0, 100, 0, 100, 0],
        [0, 100, 0, 100, 0, 100, 0, 100],
        [50, 50, 50, 50, 50, 50, 50, 50],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [30, 30, 30, 30, 30, 30, 30, 30],
        [100, 0, 0, 50, 34, 33, 70, 10],
    ]

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
}

/// Whether this machine has a GPU; the tests that need one are skipped where it has none.
enum GPUMachine {
    static let isPresent: Bool = {
        do {
            _ = try CUDADriver.load().device()
            return true
        } catch {
            print("OPTModelTests: tests that need a GPU are skipped: \(error)")
            return false
        }
    }()
}
