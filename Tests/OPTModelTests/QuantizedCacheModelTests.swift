import CPUKernels
import Checkpoints
import HostRuntime
import Placement
import SystemPackage
import TensorCore
import Testing

@testable import OPTModel

/// A source whose keys have another bias: what stands there, and `amount` with alternating signs.
private struct OtherKeyBiases<Source: TensorSource>: WrappingSource {
    let source: Source
    let amount: Float

    func readVector(_ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>)
        throws(CheckpointError)
    {
        try source.readVector(name, elements: elements, into: destination)
        guard name.hasSuffix(".k_proj.bias") else { return }
        for (index, element) in elements.enumerated() {
            destination[index] += element % 2 == 0 ? amount : -amount
        }
    }

    func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool {
        try source.holdsTiles(of: name, layout)
    }

    func readTiles(_ block: TileBlock, into destination: UnsafeMutableRawPointer) throws(CheckpointError) {
        try source.readTiles(block, into: destination)
    }
}

/// Keys go into a cache of 4 bits without their bias, so that it costs nothing of their precision.
@Suite(.serialized) struct QuantizedCacheModelTests {
    static let cases = QuantizedModelTests.cases.filter {
        (try? OPTConfiguration(folder: $0.folder))?.hasBiases == true
    }
    /// Far more than keys are apart otherwise: with such a bias in the cache nothing would be left of them.
    private static let amount: Float = 500

    @Test func `some golden checkpoints have biases`() { #expect(Self.cases.count >= 2) }

    /// With one worker, so that all sums have the same order and the same bits.
    private func decode(_ configuration: OPTConfiguration, _ source: some TensorSource, _ prompts: [[Int32]])
        throws -> LoadedModel.Result
    {
        try LoadedModel(configuration, source: source, kernels: fastestKernels!, workerCount: 1)
            .decodeGreedily(prompts, steps: 8)
    }

    private func check(_ configuration: OPTConfiguration, _ source: some TensorSource, _ prompts: [[Int32]])
        throws
    {
        let plain = try decode(configuration, source, prompts)
        let other = try decode(configuration, OtherKeyBiases(source: source, amount: Self.amount), prompts)
        #expect(plain.tokens == other.tokens)
        #expect(plain.firstLogits == other.firstLogits && plain.lastLogits == other.lastLogits)
    }

    @Test(arguments: cases, [nil, Quantization.fourBits, Quantization(bits: 8)])
    func `a key's bias changes no bit of the logits`(golden: GoldenCase, quantization: Quantization?) throws {
        try check(
            OPTConfiguration(folder: golden.folder).quantized(quantization, cache: true),
            CheckpointFiles(folder: golden.folder), golden.prompts.map(\.ids))
    }

    @Test func `nor does it of a converted model with heads of 80`() throws {
        let configuration = QuantizedModelTests.wideHeads
        let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 3)
        let folder = try ConvertedFolder(configuration, from: source, original: nil, bits: 4)
        try check(
            folder.configuration.quantized(nil, cache: true), folder.source,
            [Array(2..<60), [2, 5], Array(100..<140)])
    }

    @Test(arguments: cases, [2, 3])
    func `nor does it of a model that processes share`(golden: GoldenCase, size: Int) throws {
        let configuration = try OPTConfiguration(folder: golden.folder).quantized(nil, cache: true)
        let prompts = golden.prompts.map(\.ids)
        var results: [LoadedModel.Result] = []
        for amount in [0, Self.amount] {
            let errors = try inThreadGroup(of: size) {
                try LoadedModel(
                    configuration,
                    source: OtherKeyBiases(
                        source: CheckpointFiles(folder: golden.folder), amount: amount),
                    group: $0, channel: $1, workerCount: 1)
            } _: { model, _ in
                results.append(try model.decodeGreedily(prompts, steps: 8))
            }
            #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
        }
        #expect(results[0].tokens == results[1].tokens)
        #expect(results[0].lastLogits == results[1].lastLogits)
    }

    /// Which is why it may be left out.
    @Test(arguments: cases)
    func `in fp16 it is kept, and softmax takes it away`(golden: GoldenCase) throws {
        let configuration = try OPTConfiguration(folder: golden.folder)
        let source = try CheckpointFiles(folder: golden.folder)
        let prompts = golden.prompts.map(\.ids)
        let plain = try decode(configuration, source, prompts)
        let other = try decode(configuration, OtherKeyBiases(source: source, amount: 1), prompts)
        #expect(plain.lastLogits != other.lastLogits)
        for (logits, expected) in zip(other.firstLogits, plain.firstLogits) {
            #expect(relativeError(logits, expected) < 1e-2)
        }
    }
}

extension EmulatedGPUTests {
    @Suite(.serialized) struct QuantizedCacheWeightsTests {
        @Test(arguments: 0..<EmulatedGPUTests.GPUGroupTests.splits.count, [false, true])
        func `the keys' bias is zero in every piece, if the cache is in 4 bits`(
            split: Int, cache: Bool
        ) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            let configuration = try QuantizedModelTests.wideHeads.quantized(nil, cache: cache)
            let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 3)
            let split = EmulatedGPUTests.GPUGroupTests.splits[split]
            let weightPercent = Array(repeating: split.weights, count: 4).flatMap(\.self)
            let request =
                try split.computation.map {
                    try PlacementRequest(
                        perLayerWeightPercent: weightPercent,
                        perLayerComputationPercent: Array(repeating: $0, count: 4))
                } ?? PlacementRequest(perLayerPercent: weightPercent)
            let weights = try GPULane.loadWeights(
                configuration, placement: Placement(configuration.shape, request), from: source,
                pool: WorkerPool(workerCount: 2), kernels: fastestKernels!, context: EmulatedGPU.context(),
                options: GPUWeights.Options(offloadFolder: "/var/tmp")
            ) { _, _ in }
            let tensors = OPTTensors(configuration: configuration)
            func check(_ found: UnsafePointer<Float>, _ heads: Range<Int>, layer: Int) throws {
                let rows = tensors.rows(of: heads)
                let projections: [OPTTensors.Projection] = [.query, .key, .value]
                for (part, projection) in projections.enumerated() {
                    var expected = Array(repeating: Float(0), count: rows.count)
                    if projection != .key || !cache {
                        let name = tensors.projectionBias(projection, layer: layer)!.name
                        try expected.withUnsafeMutableBufferPointer { buffer in
                            try source.readVector(name, elements: rows, into: buffer.baseAddress!)
                        }
                        #expect(expected.contains { $0 != 0 })
                    }
                    let start = found + part * rows.count
                    #expect(Array(UnsafeBufferPointer(start: start, count: rows.count)) == expected)
                }
            }
            var pieceCount = 0
            for (index, layer) in weights.layers.enumerated() {
                for piece in layer.attention + layer.fetchedAttention {
                    let address = try #require(UnsafePointer<Float>(bitPattern: UInt(piece.qkvBias)))
                    try check(address, piece.heads, layer: index)
                    pieceCount += 1
                }
            }
            for (index, shard) in weights.hostShards.enumerated() where !shard.heads.isEmpty {
                try check(#require(shard.attention.qkvBias), shard.heads, layer: index)
            }
            #expect(pieceCount >= configuration.layerCount)
            withExtendedLifetime(weights) {}
        }
    }
}
