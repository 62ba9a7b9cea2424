import SystemPackage
import TensorCore

/// A safetensors file: the byte count of a JSON header, the header, and the tensors' bytes without a gap.
///
/// As strict as the reference implementation (huggingface/safetensors, `Metadata::validate`): the tensors'
/// ranges, in order, must cover everything behind the header exactly.
struct SafetensorsFile {
    let tensors: [StoredTensor]

    /// The limit of the reference implementation.
    private static let headerLimit = 100_000_000

    init(_ path: FilePath) throws(CheckpointError) {
        let file = try MappedFile(path)
        guard file.byteCount >= 8 else {
            throw CheckpointError(
                .truncated, file: path, byteOffset: 0,
                "The file has \(file.byteCount) bytes, too few for a safetensors file. Download it again.")
        }
        var reader = ByteReader(try file.bytes(0..<8), fileOffset: 0, file: path)
        let headerByteCount = try reader.integer(UInt64.self)
        guard headerByteCount <= UInt64(file.byteCount - 8) else {
            throw CheckpointError(
                .truncated, file: path, byteOffset: 0,
                "The header should have \(headerByteCount) bytes, and \(file.byteCount - 8) follow. The "
                    + "download may have been cut short: fetch the file again.")
        }
        guard headerByteCount <= UInt64(Self.headerLimit) else {
            throw CheckpointError(
                .malformed, file: path, byteOffset: 0,
                "The header should have \(headerByteCount) bytes; the format allows \(Self.headerLimit).")
        }
        let dataOffset = 8 + Int(headerByteCount)
        let header = try JSONDocument(try file.bytes(8..<dataOffset), fileOffset: 8, file: path)
        guard let members = header.members else {
            throw CheckpointError(
                .malformed, file: path, byteOffset: 8,
                "The header is no JSON object, so this is no safetensors file.")
        }
        var entries: [Entry] = []
        for member in members where member.key != "__metadata__" {
            entries.append(try Entry(member, file: path))
        }
        entries.sort { ($0.start, $0.end) < ($1.start, $1.end) }
        var tensors: [StoredTensor] = []
        var covered = 0
        for entry in entries {
            tensors.append(try entry.tensor(in: file, dataOffset: dataOffset, covered: covered))
            covered = entry.end
        }
        guard covered == file.byteCount - dataOffset else {
            throw CheckpointError(
                .malformed, file: path, byteOffset: dataOffset + covered,
                "\(file.byteCount - dataOffset - covered) bytes follow the last tensor. Download the file "
                    + "again."
            )
        }
        self.tensors = tensors
    }
}

/// One line of the header: {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 32]}.
private struct Entry {
    let name: String
    let scalarType: ScalarType
    let shape: Shape
    /// The tensor's bytes, counted from the end of the header.
    let start: Int
    let end: Int

    init(_ member: JSONDocument.Member, file: FilePath) throws(CheckpointError) {
        func error(_ code: CheckpointError.Code, _ value: JSONDocument?, _ sentence: String)
            -> CheckpointError
        {
            CheckpointError(
                code, file: file, tensor: member.key, byteOffset: value?.byteOffset ?? member.byteOffset,
                sentence)
        }
        let dtype = member.value["dtype"]
        guard let typeName = dtype?.string else {
            throw error(.malformed, dtype, "The header gives the tensor no \"dtype\" that is a string.")
        }
        guard let scalarType = ScalarType(safetensorsName: typeName) else {
            throw error(
                .unsupported, dtype,
                "The element type \(typeName) is not read; F16, BF16 and F32 are. Convert the checkpoint.")
        }
        let shape = member.value["shape"]
        var dimensions: [Int] = []
        for extent in shape?.elements ?? [] {
            guard let dimension = extent.integer, dimension >= 0 else {
                throw error(.malformed, extent, "An extent of the shape is no count.")
            }
            dimensions.append(dimension)
        }
        guard shape?.elements != nil else {
            throw error(.malformed, shape, "The header gives the tensor no \"shape\" that is an array.")
        }
        let offsets = member.value["data_offsets"]
        guard let pair = offsets?.elements, pair.count == 2, let start = pair[0].integer,
            let end = pair[1].integer, start >= 0, start <= end
        else {
            throw error(
                .malformed, offsets,
                "The tensor's \"data_offsets\" are not two numbers, the first not above the second.")
        }
        self.name = member.key
        self.scalarType = scalarType
        self.shape = Shape(dimensions)
        self.start = start
        self.end = end
    }

    /// `covered`: the end of the tensor before this one.
    func tensor(
        in file: MappedFile, dataOffset: Int, covered: Int
    ) throws(CheckpointError) -> StoredTensor {
        let (offset, overflow) = dataOffset.addingReportingOverflow(start)
        guard !overflow, offset <= file.byteCount else {
            throw CheckpointError(
                .truncated, file: file.path, tensor: name, byteOffset: overflow ? Int.max : offset,
                "The tensor begins behind the end of the file at byte \(file.byteCount). The download may "
                    + "have been cut short: fetch the file again.")
        }
        guard start == covered else {
            throw CheckpointError(
                .malformed, file: file.path, tensor: name, byteOffset: offset,
                start < covered
                    ? "The tensor overlaps the one before it, which ends at byte \(dataOffset + covered)."
                    : "A gap of \(start - covered) bytes stands before the tensor; the format allows none.")
        }
        return try StoredTensor(
            name: name, shape: shape, scalarType: scalarType, file: file, byteOffset: offset,
            byteCount: end - start)
    }
}
