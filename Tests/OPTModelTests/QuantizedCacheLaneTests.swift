import CUDA
import Checkpoints
import HostRuntime
import Placement
import TensorCore
import Testing

@testable import OPTModel

/// A cache of 4 bits on the GPU lane against the same on the CPU lane, wherever it lies and whoever computes with it.
private enum QuantizedCachePlacement {
    static let splits = [
        LaneSplit(cache: [100, 0]),
        LaneSplit(cache: [0, 100]),
        LaneSplit(cache: [0, 0]),
        LaneSplit(weights: [0, 100], cache: [34, 33]),
        LaneSplit(cache: [0, 100], computesCache: true),
        LaneSplit(weights: [50, 50], cache: [34, 33], computesCache: true),
        LaneSplit(weights: [0, 100], cache: [34, 66], computation: 34, computesCache: false),
        LaneSplit(weights: [0, 0], cache: [0, 0], computation: 50, computesCache: false),
        LaneSplit(weights: [0, 70], cache: [0, 70], computation: 34, computesCache: true),
    ]

    /// Heads of 64, 80 and 128, and of 96, for which there is no kernel of their own.
    static let headDimensions = [64, 80, 96, 128]

    static func configuration(headDimension: Int) -> OPTConfiguration {
        DecodeStepKernelTests.configuration((layers: 2, heads: 3, hidden: 3 * headDimension))
    }

    /// With these weights no step of the reference has two tokens that are nearly as likely.
    private static func weights(_ configuration: OPTConfiguration) -> DummyWeights {
        DummyWeights(specifications: configuration.tensorSpecifications, seed: 53)
    }

    /// Prompts of several of the kernels' tiles and parts, of few rows, and of a little more than a tile.
    static let prompts = [200, 20, 66].map { prompt(count: $0, number: $0) }

    private static func prompt(count: Int, number: Int) -> [Int32] {
        (0..<count).map { Int32(($0 * 37 + 11 * number) % 1231) }
    }

    /// ‖Δ‖ / ‖reference‖ of a step's logits: an element that lies between two codes goes either way.
    static let tolerance = 0.05

    static func check(
        _ configuration: OPTConfiguration, _ prompts: [[Int32]], _ split: LaneSplit,
        _ quantization: Quantization? = nil, context: Context?
    ) throws {
        let configuration = try configuration.quantized(quantization, cache: true)
        let source = weights(configuration)
        let reference = try LoadedModel(
            configuration, source: source, kernels: fastestKernels!, workerCount: 2
        ).decodeGreedily(prompts, steps: 6)
        let model = try LoadedModel(
            configuration, source: source, onGPU: try split.request, context: context,
            cpu: split.cpu(workerCount: 2))
        let cached = try #require(model.gpuLane).weights.placement.cacheHeads
        #expect(cached.gpu.isEmpty == (split.cache?[0] == 0) && cached.cpu.isEmpty == (split.cache?[1] == 0))
        try model.expect(reference, of: prompts, steps: 6, tolerance: tolerance)
    }

    /// As many positions as the models know.
    static func checkLongContext(_ split: LaneSplit, context: Context?) throws {
        let configuration = configuration(headDimension: 64)
        let prompt = prompt(count: configuration.maximumPositions - 6, number: 1)
        try check(configuration, [prompt], split, context: context)
    }

    /// So many rows of a step that no sequence's attention need be cut.
    static func checkManyRows(headDimension: Int, context: Context?) throws {
        let configuration = try configuration(headDimension: headDimension).quantized(nil, cache: true)
        let source = weights(configuration)
        let prompts = (0..<140).map { prompt(count: $0 == 0 ? 300 : 1 + $0 % 90, number: $0) }
        let reference = try LoadedModel(
            configuration, source: source, kernels: fastestKernels!, workerCount: 2
        ).decodeGreedily(prompts, steps: 2)
        let found = try LoadedModel(
            configuration, source: source, onGPU: try splits[0].request, context: context
        ).decodeGreedily(prompts, steps: 2)
        // Of two tokens that are as likely, either may come.
        let same = prompts.indices.filter { found.tokens[$0][0] == reference.tokens[$0][0] }
        #expect(same.count >= prompts.count * 95 / 100)
        for index in same {
            #expect(relativeError(found.lastLogits[index], reference.lastLogits[index]) < tolerance)
        }
    }
}

extension EmulatedGPUTests {
    @Suite(.serialized) struct QuantizedCacheLaneTests {
        private func concurrently(_ body: (Context) throws -> Void) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try body(try EmulatedGPU.context())
        }

        @Test(arguments: QuantizedCachePlacement.headDimensions, 0..<QuantizedCachePlacement.splits.count)
        func `tokens are the CPU lane's, wherever the cache lies`(headDimension: Int, split: Int) throws {
            try concurrently {
                try QuantizedCachePlacement.check(
                    QuantizedCachePlacement.configuration(headDimension: headDimension),
                    QuantizedCachePlacement.prompts, QuantizedCachePlacement.splits[split],
                    split % 2 == 0 ? nil : .fourBits, context: $0)
            }
        }

        @Test(arguments: 0..<QuantizedCachePlacement.splits.count)
        func `a context of 2048 positions goes the same ways`(split: Int) throws {
            try concurrently {
                try QuantizedCachePlacement.checkLongContext(
                    QuantizedCachePlacement.splits[split], context: $0)
            }
        }

        @Test func `so do many sequences at once`() throws {
            try concurrently { try QuantizedCachePlacement.checkManyRows(headDimension: 80, context: $0) }
        }

        @Test func `lines in GPU and CPU memory begin at 16 bytes, with three positions more at most`() {
            for headDimension in [16, 64, 80, 96, 128] {
                var configuration = QuantizedCachePlacement.configuration(headDimension: headDimension)
                configuration.hasQuantizedCache = true
                for capacity in 1...9 {
                    let line = GPUKVCache.lineCapacity(configuration, capacity)
                    #expect((capacity..<capacity + 4).contains(line))
                    #expect(line * configuration.cachePositionByteCount % 16 == 0)
                }
                configuration.hasQuantizedCache = false
                #expect(GPUKVCache.lineCapacity(configuration, 7) == 7)
            }
        }
    }
}

/// The same on this machine's GPU.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct QuantizedCacheGPUTests {
    @Test(
        arguments: QuantizedCachePlacement.headDimensions, 0..<QuantizedCachePlacement.splits.count)
    func `tokens are the CPU lane's, wherever the cache lies`(headDimension: Int, split: Int) throws {
        for quantization in [nil, Quantization.fourBits, .eightBits] {
            try QuantizedCachePlacement.check(
                QuantizedCachePlacement.configuration(headDimension: headDimension),
                QuantizedCachePlacement.prompts, QuantizedCachePlacement.splits[split], quantization,
                context: nil)
        }
    }

    @Test(arguments: 0..<QuantizedCachePlacement.splits.count)
    func `a context of 2048 positions goes the same ways`(split: Int) throws {
        try QuantizedCachePlacement.checkLongContext(QuantizedCachePlacement.splits[split], context: nil)
    }

    @Test(arguments: HeadDimensionKernels.dimensions)
    func `so do many sequences at once`(headDimension: Int) throws {
        try QuantizedCachePlacement.checkManyRows(headDimension: headDimension, context: nil)
    }
}
