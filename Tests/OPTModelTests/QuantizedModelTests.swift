import CPUKernels
import Checkpoints
import HostRuntime
import Synchronization
import SystemPackage
import TensorCore
import Testing

@testable import OPTModel

/// A source whose layers' matrices are rounded as quantizing rounds them, in fp16: what a quantized model computes with.
struct RoundedWeights<Source: TensorSource>: WrappingSource {
    let source: Source
    let configuration: OPTConfiguration

    func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        guard block.name.contains(".layers.") else {
            return try source.read(
                block, into: destination, stride: stride, transposed: transposed, kernels: kernels)
        }
        // Groups lie along the whole rows.
        let columns = specification(of: block.name)!.shape.dimensions[1]
        let whole = TensorBlock(name: block.name, rows: block.rows, columns: 0..<columns)
        let halves = UnsafeMutablePointer<UInt16>.allocate(capacity: block.rows.count * columns)
        defer { halves.deallocate() }
        try source.read(whole, into: halves, stride: columns, transposed: false, kernels: kernels)
        let form = block.name.contains("out_proj") ? configuration.outputForm : configuration.qkvForm
        let most = Float(configuration.quantization!.mostCode)
        for row in 0..<block.rows.count {
            var first = 0
            while first < columns {
                let end = min(first + 64, (first / form.period + 1) * form.period, columns)
                let values = (first..<end).map { Float(Float16(bitPattern: halves[row * columns + $0])) }
                let least = values.min()!
                var scale = Float16((values.max()! - least) / most)
                if Float(scale) < (values.max()! - least) / most { scale = scale.nextUp }
                for (index, value) in values.enumerated() where scale != 0 {
                    let code = min(((value - least) / Float(scale)).rounded(.toNearestOrEven), most)
                    halves[row * columns + first + index] = Float16(least + code * Float(scale)).bitPattern
                }
                first = end
            }
            for column in block.columns {
                let (r, c) = (row, column - block.columns.lowerBound)
                destination[transposed ? c * stride + r : r * stride + c] = halves[row * columns + column]
            }
        }
    }
}

@Suite(.serialized) struct QuantizedModelTests {
    /// ‖Δ‖ / ‖reference‖ of a step's logits: the reference's weights are rounded to fp16 once more.
    static let tolerance = 3e-3
    static let cases = GoldenCase.all.filter {
        $0.checkpoint.hasPrefix("safetensors")
            && (try? OPTConfiguration(folder: $0.folder))?.quantizationProblem == nil
    }

    /// A model of heads of 80, whose groups are of 64 and 16.
    static let wideHeads: OPTConfiguration = {
        var configuration = OPTConfiguration(publishedModel: "opt-2.7b")!
        configuration.layerCount = 2
        configuration.headCount = 3
        configuration.hiddenSize = 240
        configuration.embeddingSize = 240
        configuration.feedForwardSize = 576
        configuration.vocabularySize = 300
        configuration.maximumPositions = 128
        return configuration
    }()

    @Test func `some golden checkpoints take part`() { #expect(Self.cases.count >= 4) }

    private func check(
        _ configuration: OPTConfiguration, _ source: some TensorSource, _ prompts: [[Int32]], bits: Int,
        _ set: tandem_instruction_set
    ) throws {
        guard let kernels = tandem_cpu_kernels_for(set) else { return }
        let quantized = try configuration.quantized(Quantization(bits: bits))
        let expected = try LoadedModel(
            configuration, source: RoundedWeights(source: source, configuration: quantized), kernels: kernels,
            workerCount: 2)
        let reference = try expected.decodeGreedily(prompts, steps: 12)
        for workerCount in [1, 2, 3] {
            let model = try LoadedModel(quantized, source: source, kernels: kernels, workerCount: workerCount)
            for (index, prompt) in prompts.enumerated() {
                let alone = try model.decodeGreedily([prompt], steps: 12)
                #expect(alone.tokens[0] == reference.tokens[index])
                #expect(relativeError(alone.firstLogits[0], reference.firstLogits[index]) < Self.tolerance)
                #expect(relativeError(alone.lastLogits[0], reference.lastLogits[index]) < Self.tolerance)
            }
            let together = try model.decodeGreedily(prompts, steps: 12)
            #expect(together.tokens == reference.tokens)
        }
    }

    @Test(
        arguments: cases,
        [(4, TANDEM_PORTABLE), (4, TANDEM_AVX2), (8, TANDEM_AVX512), (4, TANDEM_AVX512_VNNI)])
    func `a quantized model computes with its rounded weights`(
        golden: GoldenCase, way: (bits: Int, set: tandem_instruction_set)
    ) throws {
        try check(
            OPTConfiguration(folder: golden.folder), CheckpointFiles(folder: golden.folder),
            golden.prompts.map(\.ids), bits: way.bits, way.set)
    }

    @Test(arguments: [4, 8]) func `groups do not cross heads of 80`(bits: Int) throws {
        let configuration = Self.wideHeads
        let source = StoredInRows(
            source: DummyWeights(specifications: configuration.tensorSpecifications, seed: 3))
        let prompts: [[Int32]] = [Array(2..<60), [2, 5], Array(100..<140)]
        try check(configuration, source, prompts, bits: bits, TANDEM_AVX2)
    }

    @Test(arguments: cases, [2, 3])
    func `processes that share it get its tokens`(golden: GoldenCase, size: Int) throws {
        let configuration = try OPTConfiguration(folder: golden.folder).quantized(.fourBits)
        let whole = try LoadedModel(
            configuration, source: CheckpointFiles(folder: golden.folder), kernels: fastestKernels!,
            workerCount: 2
        ).decodeGreedily(golden.prompts.map(\.ids), steps: 12)
        let errors = try inThreadGroup(of: size) {
            try LoadedModel(
                configuration, source: CheckpointFiles(folder: golden.folder), group: $0, channel: $1,
                workerCount: 1)
        } _: { model, _ in
            let result = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 12)
            #expect(result.tokens == whole.tokens)
            #expect(relativeError(result.firstLogits[0], whole.firstLogits[0]) < Self.tolerance)
        }
        #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
    }

    /// The cache's rounding is coarse for random weights, whose keys and values are spread evenly; but it is the same whichever
    /// way the rows come.
    @Test(arguments: cases, [nil, Quantization.fourBits])
    func `a cache of 4 bits gives each prompt of a batch what it gets alone`(
        golden: GoldenCase, quantization: Quantization?
    ) throws {
        let source = try CheckpointFiles(folder: golden.folder)
        let plain = try OPTConfiguration(folder: golden.folder).quantized(quantization)
        let configuration = try plain.quantized(quantization, cache: true)
        let prompts = golden.prompts.map(\.ids)
        let exact = try LoadedModel(plain, source: source, kernels: fastestKernels!, workerCount: 2)
            .decodeGreedily(prompts, steps: 1)
        let model = try LoadedModel(configuration, source: source, kernels: fastestKernels!, workerCount: 2)
        let together = try model.decodeGreedily(prompts, steps: 12)
        let three = try LoadedModel(configuration, source: source, kernels: fastestKernels!, workerCount: 3)
        for (index, prompt) in prompts.enumerated() {
            let alone = try three.decodeGreedily([prompt], steps: 12)
            #expect(alone.tokens[0] == together.tokens[index])
            // An element that lies between two codes goes either way.
            #expect(relativeError(alone.lastLogits[0], together.lastLogits[index]) < 0.05)
            #expect(relativeError(together.firstLogits[index], exact.firstLogits[index]) < 0.5)
        }
        let state = try model.decoder.makeState(capacities: [100])
        let exactState = try LoadedModel(plain, source: source, kernels: fastestKernels!, workerCount: 1)
            .decoder.makeState(capacities: [100])
        let (small, large) = (state.cache as! KVCache, exactState.cache as! KVCache)
        #expect(Double(small.byteCount) <= 0.32 * Double(large.byteCount))
    }

    @Test func `sizes that cannot be quantized are refused with a sentence`() throws {
        var configuration = Self.wideHeads
        configuration.feedForwardSize = 600
        #expect {
            _ = try configuration.quantized(.fourBits)
        } throws: {
            "\($0)".contains("feed-forward size of 600 is no multiple of 64")
        }
    }

    /// A source with an infinity in one of its matrices.
    struct Infinite: WrappingSource {
        let source: DummyWeights
        let tensor: String
        func read(
            _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int,
            transposed: Bool, kernels: UnsafePointer<tandem_cpu_kernels>
        ) throws(CheckpointError) {
            try source.read(
                block, into: destination, stride: stride, transposed: transposed, kernels: kernels)
            if block.name == tensor && block.rows.contains(37) {
                destination[(37 - block.rows.lowerBound) * stride + 5] = Float16.infinity.bitPattern
            }
        }
    }

    @Test func `a checkpoint with infinities is refused by the tensor's name`() throws {
        let configuration = try Self.wideHeads.quantized(.fourBits)
        let tensor = "decoder.layers.1.fc2.weight"
        let source = Infinite(
            source: DummyWeights(specifications: configuration.tensorSpecifications, seed: 3), tensor: tensor)
        #expect {
            _ = try LoadedModel(configuration, source: source, kernels: fastestKernels!, workerCount: 2)
        } throws: {
            let text = "\($0)"
            return text.contains(tensor) && text.contains("rows 32 to 47")
                && text.contains("--compress-weight")
        }
    }
}
