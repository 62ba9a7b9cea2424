import Checkpoints
import Foundation
import HostRuntime
import SystemPackage
import TensorCore

@testable import OPTModel

/// A converted model in a folder that goes with the test.
struct ConvertedFolder: Sendable {
    private let temporary: TemporaryFolder
    var path: FilePath { temporary.path.appending("converted") }

    /// - Parameter original: with configuration and tokenizer; nil for a model without a folder.
    init(
        _ configuration: OPTConfiguration, from source: some TensorSource, original: FilePath?, bits: Int,
        mostFileByteCount: Int = ConvertedCheckpoint.mostFileByteCount, workerCount: Int = 2
    ) throws {
        temporary = try TemporaryFolder()
        let quantized = try configuration.quantized(Quantization(bits: bits))
        let converter = CheckpointConverter(
            quantized, from: source, pool: WorkerPool(workerCount: workerCount), kernels: fastestKernels!,
            mostFileByteCount: mostFileByteCount)
        try converter.write(
            to: PartialFolder(for: path, byteCount: quantized.convertedByteCount), original: original
        ) { _, _ in }
    }

    init(_ golden: GoldenCase, bits: Int, mostFileByteCount: Int = ConvertedCheckpoint.mostFileByteCount)
        throws
    {
        try self.init(
            OPTConfiguration(folder: golden.folder), from: CheckpointFiles(folder: golden.folder),
            original: golden.folder, bits: bits, mostFileByteCount: mostFileByteCount)
    }

    var entries: [String] {
        get throws { try FileManager.default.contentsOfDirectory(atPath: path.string).sorted() }
    }

    var configuration: OPTConfiguration { get throws { try OPTConfiguration(folder: path) } }

    /// The weights, opened as the engine opens them.
    var source: CheckpointFiles {
        get throws { try CheckpointFiles(folder: path, quantization: configuration.quantization) }
    }

    /// Everything in memory; of one process, or of its part.
    func weights(_ shard: ModelShard? = nil) throws -> OPTWeights {
        let pool = WorkerPool(workerCount: 2)
        guard let shard else {
            return try OPTWeights(configuration, from: source, pool: pool, kernels: fastestKernels!) { _, _ in
            }
        }
        return try OPTWeights(
            shard.configuration, from: ShardSource(source, shard), pool: pool, kernels: fastestKernels!
        ) { _, _ in }
    }

    /// Where a tensor lies in `model.safetensors`.
    func range(of tensor: String) throws -> Range<Int> {
        struct Entry: Decodable { var data_offsets: [Int]? }
        let data = try Data(contentsOf: url("model.safetensors"))
        let headerCount = data.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        let header = try JSONDecoder().decode([String: Entry].self, from: data[8..<8 + headerCount])
        let offsets = header[tensor]!.data_offsets!
        return 8 + headerCount + offsets[0]..<8 + headerCount + offsets[1]
    }

    func change(_ file: String, _ body: (inout Data) throws -> Void) throws {
        var data = try Data(contentsOf: url(file))
        try body(&data)
        try data.write(to: url(file))
    }

    /// Replaces a text that stands in a file.
    func replace(_ text: String, by other: String, in file: String) throws {
        try change(file) { data in
            guard let range = data.firstRange(of: Data(text.utf8)) else { throw CocoaError(.fileReadUnknown) }
            data.replaceSubrange(range, with: Data(other.utf8))
        }
    }

    private func url(_ file: String) -> URL { URL(filePath: path.appending(file).string) }
}
