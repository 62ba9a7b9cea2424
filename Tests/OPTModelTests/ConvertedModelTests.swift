import Checkpoints
import Foundation
import HostRuntime
import Synchronization
import SystemPackage
import TensorCore
import Testing

@testable import OPTModel

@Suite(.serialized) struct ConvertedModelTests {
    static let cases = GoldenCase.all.filter {
        ($0.checkpoint.hasPrefix("safetensors") || $0.name == "storybook")
            && (try? OPTConfiguration(folder: $0.folder))?.quantizationProblem == nil
    }

    private func expectEqual(_ a: OPTWeights, _ b: OPTWeights) {
        #expect(a.regions.count == b.regions.count)
        for (x, y) in zip(a.regions, b.regions) { #expect(x.elementsEqual(y)) }
    }

    // MARK: What is loaded

    @Test(arguments: cases, [4, 8])
    func `a converted folder gives the logits of the model that is quantized while loading`(
        golden: GoldenCase, bits: Int
    ) throws {
        let folder = try ConvertedFolder(golden, bits: bits)
        let configuration = try OPTConfiguration(folder: golden.folder).quantized(Quantization(bits: bits))
        // With several threads sums may come in another order in each run.
        let expected = try LoadedModel(
            configuration, source: CheckpointFiles(folder: golden.folder), kernels: fastestKernels!,
            workerCount: 1
        ).decodeGreedily(golden.prompts.map(\.ids), steps: 12)
        let converted = try folder.configuration
        #expect(converted.quantization?.bits == bits)
        let result = try LoadedModel(
            converted, source: folder.source, kernels: fastestKernels!, workerCount: 1
        ).decodeGreedily(golden.prompts.map(\.ids), steps: 12)
        #expect(result.tokens == expected.tokens)
        let isEqual = result.firstLogits == expected.firstLogits && result.lastLogits == expected.lastLogits
        #expect(isEqual)
    }

    /// Of a model with groups of 64 and 16 in every head.
    private func checkParts(_ source: some TensorSource, size: Int, bits: Int) throws {
        let whole = QuantizedModelTests.wideHeads
        let folder = try ConvertedFolder(whole, from: source, original: nil, bits: bits)
        var named = whole
        named.name = "converted"
        #expect(try folder.configuration == named.quantized(Quantization(bits: bits)))
        for rank in 0..<size {
            let shard = try ModelShard(folder.configuration, rank: rank, of: size)
            let expected = try OPTWeights(
                shard.configuration, from: ShardSource(source, shard), pool: WorkerPool(workerCount: 2),
                kernels: fastestKernels!
            ) { _, _ in }
            expectEqual(try folder.weights(shard), expected)
        }
    }

    private static let random = DummyWeights(
        specifications: QuantizedModelTests.wideHeads.tensorSpecifications, seed: 5)

    @Test(arguments: [1, 2, 3, 4], [4, 8])
    func `processes read their parts of a converted folder as they would quantize them`(size: Int, bits: Int)
        throws
    {
        try checkParts(StoredInRows(source: Self.random), size: size, bits: bits)
    }

    @Test(arguments: [1, 2, 3, 4], [4, 8])
    func `processes make their parts of random tiles as they are converted`(size: Int, bits: Int) throws {
        try checkParts(Self.random, size: size, bits: bits)
    }

    @Test(arguments: cases, [2, 3])
    func `processes that share a converted folder get its tokens`(golden: GoldenCase, size: Int) throws {
        let folder = try ConvertedFolder(golden, bits: 4)
        let whole = try LoadedModel(
            folder.configuration, source: folder.source, kernels: fastestKernels!, workerCount: 2
        ).decodeGreedily(golden.prompts.map(\.ids), steps: 12)
        let errors = try inThreadGroup(of: size) {
            try LoadedModel(
                folder.configuration, source: folder.source, group: $0, channel: $1, workerCount: 1)
        } _: { model, _ in
            let result = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 12)
            #expect(result.tokens == whole.tokens)
        }
        #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
    }

    @Test func `a folder of several files is read as one of one file`() throws {
        let golden = try #require(Self.cases.first { $0.name == "head-dim-128" })
        let one = try ConvertedFolder(golden, bits: 4)
        let several = try ConvertedFolder(golden, bits: 4, mostFileByteCount: 100_000)
        let files = try several.entries.filter { $0.hasSuffix(".safetensors") }
        #expect(files.count > 2)
        #expect(files.first == "model-00001-of-0000\(files.count).safetensors")
        #expect(try several.entries.contains("model.safetensors.index.json"))
        expectEqual(try several.weights(), try one.weights())
    }

    @Test func `the tokenizer and the options for generating come along`() throws {
        let golden = try #require(Self.cases.first { $0.name == "storybook" })
        let folder = try ConvertedFolder(golden, bits: 8)
        for name in ["tokenizer.json", "vocab.json", "merges.txt", "generation_config.json"] {
            #expect(
                try Data(contentsOf: URL(filePath: folder.path.appending(name).string))
                    == Data(contentsOf: URL(filePath: golden.folder.appending(name).string)))
        }
    }

    @Test func `other bits than the folder's are refused, its own and none are not`() throws {
        let folder = try ConvertedFolder(Self.cases[0], bits: 4)
        let configuration = try folder.configuration
        #expect(try configuration.quantized(nil) == configuration)
        #expect(try configuration.quantized(.fourBits) == configuration)
        #expect {
            _ = try configuration.quantized(.eightBits)
        } throws: {
            "\($0)".contains("has been quantized to 4 bits, and 8 were asked for")
        }
    }

    // MARK: What is refused

    private static let golden = cases.first { $0.name == "post-norm" }!

    private func expectRefusal(
        _ folder: ConvertedFolder, _ shard: ModelShard? = nil, _ words: String...,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(sourceLocation: sourceLocation) {
            _ = try folder.weights(shard)
        } throws: { error in
            words.allSatisfy { "\(error)".contains($0) }
        }
    }

    @Test(
        arguments: [
            "decoder.layers.1.fc1.weight", "decoder.layers.0.fc2.weight",
            "decoder.layers.0.self_attn.out_proj.weight", "decoder.embed_tokens.weight",
            "decoder.embed_positions.weight", "decoder.layers.1.fc1.bias",
        ], [0.0, 0.5, 1.0])
    func `a bit that flipped is found`(tensor: String, at place: Double) throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        let range = try folder.range(of: tensor)
        let offset = range.lowerBound + Int(Double(range.count - 1) * place)
        try folder.change("model.safetensors") { $0[offset] ^= 0x10 }
        expectRefusal(
            folder, nil, "model.safetensors", tensor, "not those that were written", "convert the model again"
        )
    }

    @Test func `a digest that flipped is found`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        let range = try folder.range(of: "decoder.layers.1.fc2.weight.digests")
        try folder.change("model.safetensors") { $0[range.lowerBound + 5] ^= 1 }
        expectRefusal(folder, nil, "decoder.layers.1.fc2.weight", "not those that were written")
    }

    @Test func `a process checks what it reads, and nothing else`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        let configuration = try folder.configuration
        let range = try folder.range(of: "decoder.layers.0.fc2.weight")
        try folder.change("model.safetensors") { $0[range.upperBound - 1] ^= 1 }
        _ = try folder.weights(ModelShard(configuration, rank: 0, of: 2))
        expectRefusal(
            folder, ModelShard(configuration, rank: 1, of: 2), "decoder.layers.0.fc2.weight",
            "not those that were written")
    }

    @Test func `a file that is cut short is refused`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        try folder.change("model.safetensors") { $0.removeLast(1000) }
        expectRefusal(folder, nil, "model.safetensors", "past the end of the file", "convert the model again")
    }

    @Test func `another version, group size or number of bits is refused`() throws {
        for (text, other, words) in [
            ("\"version\": 1", "\"version\": 2", "the version 2"),
            ("\"group_size\": 64", "\"group_size\": 128", "the group_size 128"),
            ("\"bits\": 4", "\"bits\": 3", "the bits 3"),
        ] {
            let folder = try ConvertedFolder(Self.golden, bits: 4)
            try folder.replace(text, by: other, in: "config.json")
            #expect {
                _ = try folder.configuration
            } throws: { error in
                ["config.json", words, "convert the model again"].allSatisfy { "\(error)".contains($0) }
            }
        }
    }

    @Test func `tiles of other bits than config.json says are refused`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        try folder.replace("\"bits\": 4", by: "\"bits\": 8", in: "config.json")
        expectRefusal(folder, nil, ".weight", "bytes, and by the model's configuration", "convert the model")
    }

    @Test func `a tensor without digests is refused`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        let tensor = "decoder.layers.0.fc1.weight"
        try folder.replace("\(tensor).digests", by: "\(tensor).digestz", in: "model.safetensors")
        expectRefusal(folder, nil, "\(tensor).digests", "missing", "Convert the model again")
    }

    @Test func `a folder whose config.json is another's is refused`() throws {
        let folder = try ConvertedFolder(Self.golden, bits: 4)
        try folder.change("config.json") {
            $0 = try Data(contentsOf: URL(filePath: Self.golden.folder.appending("config.json").string))
        }
        expectRefusal(folder, nil, "U8", "restore the config.json")
        // And the other way round.
        let original = try CheckpointFiles(folder: Self.golden.folder)
        #expect(
            try !original.holdsTiles(
                of: "decoder.layers.0.fc1.weight", .init(.fourBits, .byOutputs, outputs: 16, inputs: 64)))
        #expect {
            _ = try CheckpointFiles(folder: Self.golden.folder, quantization: .fourBits)
        } throws: {
            "\($0)".contains(".digests") && "\($0)".contains("Convert the model again")
        }
    }

    // MARK: What is left behind

    private func converter(_ source: some TensorSource, _ configuration: OPTConfiguration) throws
        -> CheckpointConverter<some TensorSource>
    {
        CheckpointConverter(
            try configuration.quantized(.fourBits), from: source, pool: WorkerPool(workerCount: 2),
            kernels: fastestKernels!)
    }

    @Test func `a conversion that is cancelled leaves nothing`() throws {
        let temporary = try TemporaryFolder()
        let configuration = QuantizedModelTests.wideHeads
        let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 5)
        let folder = try PartialFolder(for: temporary.path.appending("new"), byteCount: 0)
        let entries = Mutex<[String]>([])
        #expect {
            try converter(source, configuration).write(to: folder, original: nil) { _, _ in
                entries.withLock {
                    if $0.isEmpty {
                        $0 =
                            (try? FileManager.default.contentsOfDirectory(atPath: temporary.path.string))
                            ?? []
                    }
                }
                folder.remove()
            }
        } throws: {
            ($0 as? ModelError)?.code == .cancelled
        }
        #expect(entries.withLock(\.self).first?.hasPrefix("new.partial-") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path.string) == [])
    }

    @Test func `a conversion that fails leaves nothing`() throws {
        let temporary = try TemporaryFolder()
        let configuration = QuantizedModelTests.wideHeads
        let tensor = "decoder.layers.1.fc2.weight"
        let source = QuantizedModelTests.Infinite(
            source: DummyWeights(specifications: configuration.tensorSpecifications, seed: 3), tensor: tensor)
        let folder = try PartialFolder(for: temporary.path.appending("new"), byteCount: 0)
        #expect {
            try converter(source, configuration).write(to: folder, original: nil) { _, _ in }
        } throws: {
            "\($0)".contains(tensor) && "\($0)".contains("infinities")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path.string) == [])
    }

    @Test func `a folder that is there is not written over`() throws {
        let temporary = try TemporaryFolder()
        #expect {
            _ = try PartialFolder(for: temporary.path, byteCount: 0)
        } throws: {
            "\($0)".contains("exists already")
        }
        // It came while the model was converted.
        let output = temporary.path.appending("new")
        let folder = try PartialFolder(for: output, byteCount: 0)
        try FileManager.default.createDirectory(
            atPath: output.appending("mine").string, withIntermediateDirectories: true)
        let configuration = QuantizedModelTests.wideHeads
        let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 5)
        #expect {
            try converter(source, configuration).write(to: folder, original: nil) { _, _ in }
        } throws: {
            "\($0)".contains("exists already")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path.string) == ["new"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: output.string) == ["mine"])
    }

    @Test func `a disk without room is refused before anything is written`() throws {
        let temporary = try TemporaryFolder()
        #expect {
            _ = try PartialFolder(for: temporary.path.appending("new"), byteCount: 5 << 30) { _ in 2 << 30 }
        } throws: {
            "\($0)".contains("takes 5.00 GiB") && "\($0)".contains("2.00 GiB are free")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path.string) == [])
    }
}
