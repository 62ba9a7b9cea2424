import CUDA
import Checkpoints
import HostRuntime
import Placement
import TensorCore
import Testing

@testable import OPTModel

/// Quantized models on the GPU lane against the same on the CPU lane, wherever the weights lie and whoever computes.
private enum QuantizedPlacement {
    static let splits = EmulatedGPUTests.GPUGroupTests.splits
    /// ‖Δ‖ / ‖reference‖ of a step's logits: a GPU's weights are rounded to fp16, and its activations too.
    static let tolerance = 5e-3

    static func check(
        _ configuration: OPTConfiguration, _ source: some TensorSource, _ prompts: [[Int32]], split: Int,
        bits: Int, context: Context?
    ) throws {
        let configuration = try configuration.quantized(Quantization(bits: bits))
        let reference = try LoadedModel(
            configuration, source: source, kernels: fastestKernels!, workerCount: 2
        ).decodeGreedily(prompts, steps: 8)
        let split = splits[split]
        let model = try LoadedModel(
            configuration, source: source, onGPU: try split.request, context: context,
            cpu: split.cpu(workerCount: 2))
        try model.expect(reference, of: prompts, steps: 8, tolerance: tolerance)
    }

    static func check(_ golden: GoldenCase, split: Int, bits: Int, context: Context?) throws {
        try check(
            OPTConfiguration(folder: golden.folder), CheckpointFiles(folder: golden.folder),
            golden.prompts.map(\.ids), split: split, bits: bits, context: context)
    }

    /// Heads of 80, whose groups are of 64 and 16.
    static func checkWideHeads(split: Int, bits: Int, _ storage: Storage, context: Context?) throws {
        let configuration = QuantizedModelTests.wideHeads
        let random = DummyWeights(specifications: configuration.tensorSpecifications, seed: 3)
        let source = StoredInRows(source: random)
        let prompts: [[Int32]] = [Array(2..<60), [2, 5], Array(100..<140)]
        switch storage {
        case .rows:
            try check(configuration, source, prompts, split: split, bits: bits, context: context)
        case .randomTiles:
            try check(configuration, random, prompts, split: split, bits: bits, context: context)
        case .converted:
            let folder = try ConvertedFolder(configuration, from: source, original: nil, bits: bits)
            try check(
                folder.configuration, folder.source, prompts, split: split, bits: bits, context: context)
        }
    }

    enum Storage { case rows, randomTiles, converted }
}

extension EmulatedGPUTests {
    @Suite(.serialized) struct QuantizedLaneTests {
        @Test(
            arguments: QuantizedModelTests.cases.filter { $0.name != "storybook" },
            0..<QuantizedPlacement.splits.count)
        func `tokens are the CPU lane's, wherever the weights lie`(golden: GoldenCase, split: Int) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try QuantizedPlacement.check(
                golden, split: split, bits: split % 2 == 0 ? 4 : 8, context: EmulatedGPU.context())
        }

        @Test(arguments: 0..<QuantizedPlacement.splits.count)
        func `heads of 80 go the same ways`(split: Int) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try QuantizedPlacement.checkWideHeads(
                split: split, bits: 4, .rows, context: EmulatedGPU.context())
        }

        @Test(arguments: 0..<QuantizedPlacement.splits.count)
        func `a converted folder goes the same ways`(split: Int) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try QuantizedPlacement.checkWideHeads(
                split: split, bits: split % 2 == 0 ? 8 : 4, .converted, context: EmulatedGPU.context())
        }

        @Test(arguments: 0..<QuantizedPlacement.splits.count)
        func `random tiles go the same ways`(split: Int) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try QuantizedPlacement.checkWideHeads(
                split: split, bits: split % 2 == 0 ? 4 : 8, .randomTiles, context: EmulatedGPU.context())
        }
    }
}

/// The same on this machine's GPU.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct QuantizedGPUTests {
    @Test(arguments: QuantizedModelTests.cases, 0..<QuantizedPlacement.splits.count)
    func `tokens are the CPU lane's, wherever the weights lie`(golden: GoldenCase, split: Int) throws {
        for bits in [4, 8] {
            try QuantizedPlacement.check(golden, split: split, bits: bits, context: nil)
        }
    }

    @Test(arguments: 0..<QuantizedPlacement.splits.count, [4, 8])
    func `heads of 80 go the same ways`(split: Int, bits: Int) throws {
        for storage in [QuantizedPlacement.Storage.rows, .randomTiles] {
            try QuantizedPlacement.checkWideHeads(split: split, bits: bits, storage, context: nil)
        }
    }

    /// For every kernel: layers, heads, hidden size.
    static let shapes = [(2, 12, 768), (1, 32, 4096), (1, 40, 5120), (3, 3, 192), (2, 16, 1024)]

    @Test(arguments: shapes, CompressionForm.all.filter { $0 != .fp16 })
    func `a step in one kernel is the operations one by one`(
        shape: (layers: Int, heads: Int, hidden: Int), form: CompressionForm
    ) throws {
        let configuration = try DecodeStepKernelTests.configuration(shape).quantized(
            form.quantization, cache: form.compressesCache)
        let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 7)
        let onGPU = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 100, 0, 100, 0])
        let models = try [true, false].map {
            try LoadedModel(configuration, source: source, onGPU: onGPU, usesStepKernel: $0)
        }
        #expect(models.map { $0.gpuLane?.stepKernel != nil } == [true, false])
        // Sums of another order round an element of a cache to another code now and then, so that tokens would part in the end.
        let steps = form.compressesCache ? 2 : 9
        for promptLength in [1, 130, 700, 1500] {
            let prompt = (0..<promptLength).map { Int32(($0 * 37 + 11) % configuration.vocabularySize) }
            let results = try models.map { try $0.decodeGreedily([prompt], steps: steps) }
            if !form.compressesCache { #expect(results[0].tokens == results[1].tokens) }
            // With one position in front of it half of what is attended to is the step's own, rounded by its kernel.
            let bound = !form.compressesCache ? 2e-3 : promptLength == 1 ? 1e-1 : 1e-2
            #expect(relativeError(results[0].lastLogits[0], results[1].lastLogits[0]) < bound)
        }
    }
}
