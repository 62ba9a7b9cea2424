import CPUKernels
import Glibc
import SystemPackage
import TensorCore

/// A model's checkpoint in a folder, in whichever published format is there.
///
/// Looked for in this order, as transformers does: `model.safetensors`, `model.safetensors.index.json`,
/// `pytorch_model.bin`, `pytorch_model.bin.index.json`, a folder of .npy files. Of a folder that `tandem convert` wrote, the
/// layers' matrices are stored as tiles, and whatever is read is checked.
public struct CheckpointFiles: TensorSource {
    public let origin: String
    private let folder: FilePath
    private let tensors: [String: StoredTensor]
    /// Quantized matrices.
    private let tiles: [String: StoredTensor]
    private let quantization: Quantization?

    /// - Parameter quantization: what the folder's config.json says of it; nil where nobody has converted the model.
    public init(folder: FilePath, quantization: Quantization? = nil) throws(CheckpointError) {
        var status = stat()
        guard stat(folder.string, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw CheckpointError(
                .missingFolder, file: folder,
                "There is no such folder. Download the model into it, or name another one with --path.")
        }
        self.folder = folder
        self.quantization = quantization
        guard let quantization else {
            let (stored, format) = try Self.open(folder)
            origin = "\(folder) (\(format))"
            if let bytes = stored.first(where: { $0.specification.scalarType == .uint8 }) {
                throw Self.unreadableBytes(bytes)
            }
            tensors = try Self.byCanonicalName(stored, folder: folder)
            tiles = [:]
            return
        }
        do {
            let (stored, format) = try Self.open(folder)
            origin = "\(folder) (\(format), \(quantization.bits) bits)"
            let converted = try ConvertedTensors(try Self.byCanonicalName(stored, folder: folder))
            tensors = converted.others
            tiles = converted.tiles
        } catch  where error.code == .truncated || error.code == .malformed || error.code == .missingFile {
            throw error.ofConvertedFolder
        }
    }

    /// The canonical names of all tensors, sorted.
    public var names: [String] { (Array(tensors.keys) + Array(tiles.keys)).sorted() }

    public func specification(of name: String) -> TensorSpecification? { tensors[name]?.specification }

    public func location(of name: String) -> FilePath { (tensors[name] ?? tiles[name])?.file.path ?? folder }

    private static func unreadableBytes(_ tensor: StoredTensor) -> CheckpointError {
        CheckpointError(
            .unsupported, file: tensor.file.path, tensor: tensor.specification.name,
            byteOffset: tensor.byteOffset,
            "The element type U8 is not read; F16, BF16 and F32 are. Convert the checkpoint. Or where tandem "
                + "convert wrote it, restore the config.json that came with it.")
    }

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
        let tensor = try stored(block.name)
        try tensor.checkDigests(ofRows: block.rows)
        try tensor.read(
            block, into: destination, stride: stride, transposed: transposed, kernels: kernels)
    }

    public func readVector(
        _ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>
    ) throws(CheckpointError) {
        let tensor = try stored(name)
        try tensor.checkDigests(ofRows: 0..<1)
        try tensor.readVector(elements, into: destination)
    }

    public func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool {
        guard let quantization else { return false }
        guard let tensor = tiles[name] else {
            _ = try require(name)
            throw CheckpointError(
                .malformed, file: location(of: name), tensor: name,
                "By its config.json the model is quantized to \(quantization.bits) bits, and this matrix is "
                    + "not. \(StoredTensor.advice)")
        }
        try tensor.check(.tiles(layout))
        return true
    }

    public func readTiles(
        _ block: TileBlock, into destination: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        try tiles[block.name]!.readTiles(block, into: destination)
    }

    private func stored(_ name: String) throws(CheckpointError) -> StoredTensor {
        guard let tensor = tensors[name] else {
            _ = try require(name)
            preconditionFailure("\(name) has a specification and no bytes")
        }
        return tensor
    }
}
