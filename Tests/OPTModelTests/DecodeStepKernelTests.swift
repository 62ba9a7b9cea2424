import Checkpoints
import Placement
import Testing

@testable import OPTModel

@Suite struct DecodeCutTests {
    @Test(arguments: [
        (2048, 2048), (8192, 2048), (4096, 4096), (16384, 4096), (256, 256), (64, 64), (28672, 7168),
    ])
    func `every stage has one owner, no block has much more than another, and the slots suffice`(
        inputs: Int, outputs: Int
    ) {
        for blockCount in [1, 12, 48, 108, 132] {
            let cut = DecodeCut(inputs: inputs, outputs: outputs, blockCount: blockCount)
            let depth = divideUp(inputs, 128)
            let total = depth * divideUp(outputs, 64)
            let begins = (0...cut.participants).map { total * $0 / cut.participants }
            #expect(cut.participants <= blockCount && cut.slotCount <= 16)
            #expect(zip(begins, begins.dropFirst()).allSatisfy { $1 - $0 >= 1 })
            #expect(
                zip(begins, begins.dropFirst()).map { $1 - $0 }.max()! <= divideUp(total, cut.participants))
            for tile in 0..<divideUp(outputs, 64) {
                let stages = tile * depth..<(tile + 1) * depth
                let owners = (0..<cut.participants).filter {
                    stages.overlaps(begins[$0]..<begins[$0 + 1])
                }
                #expect(owners.count <= cut.slotCount)
            }
        }
    }
}

/// A step in one kernel against the same step operation by operation.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct DecodeStepKernelTests {
    /// For every kernel: layers, heads, hidden size.
    static let shapes = [
        (2, 12, 768), (1, 32, 2560), (1, 32, 4096), (1, 40, 5120), (5, 3, 384), (2, 16, 1024),
    ]

    static func configuration(_ shape: (layers: Int, heads: Int, hidden: Int)) -> OPTConfiguration {
        var configuration = OPTConfiguration(publishedModel: "opt-125m")!
        configuration.layerCount = shape.layers
        configuration.headCount = shape.heads
        configuration.headDimension = shape.hidden / shape.heads
        configuration.hiddenSize = shape.hidden
        configuration.embeddingSize = shape.hidden
        configuration.feedForwardSize = 4 * shape.hidden
        configuration.vocabularySize = 1231
        return configuration
    }

    @Test(arguments: shapes)
    func `logits are those of the operations one by one`(
        shape: (layers: Int, heads: Int, hidden: Int)
    ) throws {
        let configuration = Self.configuration(shape)
        let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 7)
        let models = try [true, false].map {
            try LoadedModel(
                configuration, source: source, onGPU: try PlacementRequest(perLayerPercent: .allOnGPU),
                usesStepKernel: $0)
        }
        #expect(models.map { $0.gpuLane?.stepKernel != nil } == [true, false])
        for promptLength in [1, 130, 700] {
            let prompt = (0..<promptLength).map { Int32(($0 * 37 + 11) % configuration.vocabularySize) }
            let results = try models.map { try $0.decodeGreedily([prompt], steps: 9) }
            #expect(results[0].tokens == results[1].tokens)
            #expect(relativeError(results[0].lastLogits[0], results[1].lastLogits[0]) < 2e-3)
        }
        // Several sequences, so many at last that attention takes whole ones.
        for sequenceCount in [2, 9, 32] {
            let prompts = (0..<sequenceCount).map { sequence in
                (0..<3 + 19 * sequence % 160).map {
                    Int32(($0 * 37 + 11 * sequence) % configuration.vocabularySize)
                }
            }
            let results = try models.map { try $0.decodeGreedily(prompts, steps: 5) }
            #expect(results[0].tokens == results[1].tokens)
            for (found, expected) in zip(results[0].lastLogits, results[1].lastLogits) {
                #expect(relativeError(found, expected) < 2e-3)
            }
        }
    }

    @Test func `a model that fits into it is decoded by it, and others are not`() throws {
        let storybook = try #require(GoldenCase.all.first { $0.name == "storybook" })
        let postNorm = try #require(GoldenCase.all.first { $0.name == "post-norm" })
        let onGPU = try PlacementRequest(perLayerPercent: .allOnGPU)
        let half = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 50, 50, 100, 0])
        #expect(try lane(LoadedModel(storybook.folder, onGPU: onGPU)).stepKernel != nil)
        #expect(try lane(LoadedModel(storybook.folder, onGPU: onGPU)).boxProducts != nil)
        #expect(try lane(LoadedModel(storybook.folder, onGPU: half)).boxProducts == nil)
        #expect(try lane(LoadedModel(postNorm.folder, onGPU: onGPU)).boxProducts == nil)
        #expect(try lane(LoadedModel(storybook.folder, onGPU: half)).stepKernel == nil)
        #expect(try lane(LoadedModel(postNorm.folder, onGPU: onGPU)).stepKernel == nil)
    }

    private func lane(_ model: LoadedModel) throws -> GPULane {
        try #require(model.decoder.lane as? GPULane)
    }
}

extension [Double] {
    fileprivate static let allOnGPU: [Double] = [100, 0, 100, 0, 100, 0, 100, 0]
}
