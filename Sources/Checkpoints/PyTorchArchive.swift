import SystemPackage
import TensorCore

/// A file that torch.save wrote: a zip archive of `<name>/data.pkl`, which describes the tensors, and one
/// entry `<name>/data/<key>` for each storage.
struct PyTorchArchive {
    let tensors: [StoredTensor]

    init(_ path: FilePath) throws(CheckpointError) {
        let file = try MappedFile(path)
        try Self.refuseLegacyFormat(file)
        let directory = try ZipDirectory(file)
        var ranges: [String: Range<Int>] = [:]
        for entry in directory.entries { ranges[entry.name] = entry.range }

        let suffix = "/data.pkl"
        let pickles = directory.entries.filter { $0.name.hasSuffix(suffix) }
        guard pickles.count == 1 else {
            throw CheckpointError(
                .malformed, file: path,
                "The archive holds \(pickles.count) entries named data.pkl, and torch.save writes one.")
        }
        let folder = pickles[0].name.dropLast(suffix.count)
        if let range = ranges["\(folder)/byteorder"], try file.bytes(range) != Array("little".utf8) {
            throw CheckpointError(
                .unsupported, file: path, byteOffset: range.lowerBound,
                "The archive's numbers are not little-endian. Load and save it again on the usual kind of "
                    + "machine.")
        }
        let described = try PickleMachine.stateDictionary(
            try file.bytes(pickles[0].range), fileOffset: pickles[0].range.lowerBound, file: path)
        var tensors: [StoredTensor] = []
        for (name, tensor) in described {
            guard let range = ranges["\(folder)/data/\(tensor.storage.key)"] else {
                throw CheckpointError(
                    .malformed, file: path, tensor: name, byteOffset: tensor.byteOffset,
                    "The archive lacks the tensor's storage data/\(tensor.storage.key). Download it again.")
            }
            tensors.append(try tensor.stored(as: name, in: file, storage: range))
        }
        self.tensors = tensors
    }

    /// Before version 1.6, torch.save wrote bare pickles, and before that tar archives.
    private static func refuseLegacyFormat(_ file: MappedFile) throws(CheckpointError) {
        let magicNumber: [UInt8] = [0x80, 0x02, 0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46]
        let isBarePickle = try file.bytes(0..<min(8, file.byteCount)) == magicNumber
        let tarMark = file.byteCount < 512 ? [] : try file.bytes(257..<262)
        let isTar = tarMark == Array("ustar".utf8)
        if isBarePickle || isTar {
            throw CheckpointError(
                .unsupported, file: file.path, byteOffset: 0,
                "The file is in the format of torch before version 1.6. Convert it: python3 -c \"import "
                    + "torch; p = '\(file.path.string)'; "
                    + "torch.save(torch.load(p, map_location='cpu', weights_only=True), p)\".")
        }
    }
}

extension PickleTensor {
    /// The tensor in the file, after its storage was held against the archive's entry.
    fileprivate func stored(
        as name: String, in file: MappedFile, storage range: Range<Int>
    ) throws(CheckpointError) -> StoredTensor {
        func error(_ code: CheckpointError.Code, at offset: Int, _ sentence: String) -> CheckpointError {
            CheckpointError(code, file: file.path, tensor: name, byteOffset: offset, sentence)
        }
        let elementByteCount = storage.scalarType.byteCount
        let storageBytes = storage.elementCount.multipliedReportingOverflow(by: elementByteCount)
        guard !storageBytes.overflow, storageBytes.partialValue == range.count else {
            throw error(
                .malformed, at: range.lowerBound,
                "The tensor's storage data/\(storage.key) should have \(storage.elementCount) elements of "
                    + "\(elementByteCount) bytes, and the archive holds \(range.count) bytes.")
        }
        guard let count = Shape(dimensions).elementCount, count <= storage.elementCount,
            elementOffset <= storage.elementCount - count
        else {
            throw error(
                .malformed, at: byteOffset,
                "The tensor of shape \(Shape(dimensions)) from element \(elementOffset) on reaches past the "
                    + "\(storage.elementCount) elements of its storage data/\(storage.key).")
        }
        guard isContiguous else {
            throw error(
                .unsupported, at: byteOffset,
                "The tensor's strides \(Shape(strides)) are not those of contiguous rows of the shape "
                    + "\(Shape(dimensions)). Call .contiguous() on it before saving the model.")
        }
        return try StoredTensor(
            name: name, shape: Shape(dimensions), scalarType: storage.scalarType, file: file,
            byteOffset: range.lowerBound + elementOffset * elementByteCount,
            byteCount: count * elementByteCount)
    }
}
