import CPUKernels
import Glibc
import SystemPackage
import TensorCore

/// A model's checkpoint in a folder, in whichever published format is there.
///
/// Looked for in this order, as transformers does: `model.safetensors`, `model.safetensors.index.json`,
/// `pytorch_model.bin`, `pytorch_model.bin.index.json`, a folder of .npy files.
public struct CheckpointFiles: TensorSource {
    public let origin: String
    private let folder: FilePath
    private let tensors: [String: StoredTensor]

    public init(folder: FilePath) throws(CheckpointError) {
        var status = stat()
        guard stat(folder.string, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw CheckpointError(
                .missingFolder, file: folder,
                "There is no such folder. Download the model into it, or name another one with --path.")
        }
        let (tensors, format) = try Self.open(folder)
        self.folder = folder
        origin = "\(folder) (\(format))"
        self.tensors = try Self.byCanonicalName(tensors, folder: folder)
    }

    /// The canonical names of all tensors, sorted.
    public var names: [String] { tensors.keys.sorted() }

    public func specification(of name: String) -> TensorSpecification? { tensors[name]?.specification }

    public func location(of name: String) -> FilePath { tensors[name]?.file.path ?? folder }

    private static func open(
        _ folder: FilePath
    ) throws(CheckpointError) -> (tensors: [StoredTensor], format: String) {
        func path(_ name: String) -> FilePath? {
            let path = folder.appending(name)
            return access(path.string, F_OK) == 0 ? path : nil
        }
        let openSafetensors = { (path: FilePath) throws(CheckpointError) in
            try SafetensorsFile(path).tensors
        }
        let openArchive = { (path: FilePath) throws(CheckpointError) in try PyTorchArchive(path).tensors }

        if let file = path("model.safetensors") { return (try openSafetensors(file), "safetensors, 1 file") }
        if let index = path("model.safetensors.index.json") {
            let (tensors, shardCount) = try ShardIndex(index).tensors(opening: openSafetensors)
            return (tensors, "safetensors, \(shardCount) shards")
        }
        if let file = path("pytorch_model.bin") { return (try openArchive(file), "PyTorch, 1 file") }
        if let index = path("pytorch_model.bin.index.json") {
            let (tensors, shardCount) = try ShardIndex(index).tensors(opening: openArchive)
            return (tensors, "PyTorch, \(shardCount) shards")
        }
        if let numpy = try NumpyFolder(folder) {
            return (numpy.tensors, "numpy, \(numpy.tensors.count) files")
        }
        throw CheckpointError(
            .missingCheckpoint, file: folder,
            "The folder holds no weights: neither model.safetensors nor pytorch_model.bin, no index of "
                + "shards of either, and no .npy files named as tensors. Download the model into it.")
    }

    private static func byCanonicalName(
        _ stored: [StoredTensor], folder: FilePath
    ) throws(CheckpointError) -> [String: StoredTensor] {
        var tensors: [String: StoredTensor] = [:]
        var storedNames: [String: String] = [:]
        for var tensor in stored {
            let storedName = tensor.specification.name
            let name = TensorName.canonical(storedName)
            if let other = storedNames.updateValue(storedName, forKey: name) {
                throw CheckpointError(
                    .ambiguousName, file: tensor.file.path, tensor: storedName, byteOffset: tensor.byteOffset,
                    "The checkpoint also holds \(other), and both are the model's \(name). Remove the one "
                        + "that does not belong to the model.")
            }
            tensor.specification.name = name
            tensors[name] = tensor
        }
        if tensors[TensorName.tokenEmbedding] == nil, var tied = tensors[TensorName.outputProjection] {
            tied.specification.name = TensorName.tokenEmbedding
            tensors[TensorName.tokenEmbedding] = tied
        }
        return tensors
    }

    public func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        try stored(block.name).read(
            block, into: destination, stride: stride, transposed: transposed, kernels: kernels)
    }

    public func readVector(
        _ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>
    ) throws(CheckpointError) {
        try stored(name).readVector(elements, into: destination)
    }

    private func stored(_ name: String) throws(CheckpointError) -> StoredTensor {
        guard let tensor = tensors[name] else {
            _ = try require(name)
            preconditionFailure("\(name) has a specification and no bytes")
        }
        return tensor
    }
}
