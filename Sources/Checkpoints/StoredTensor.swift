import SystemPackage
import TensorCore

/// A tensor in a file: contiguous, row-major, little-endian, at a byte offset that was checked against the
/// file.
struct StoredTensor: Sendable {
    /// With the name as stored; `CheckpointFiles` renames it to the canonical one.
    var specification: TensorSpecification
    let file: MappedFile
    let byteOffset: Int
    /// Of its units, where it lies in a converted folder; see `DigestUnits`.
    var digests: [UInt32]?

    /// Checks that the shape's bytes are exactly those that the file declares, and that the file has them.
    init(
        name: String, shape: Shape, scalarType: ScalarType, file: MappedFile, byteOffset: Int, byteCount: Int
    ) throws(CheckpointError) {
        let needed = shape.elementCount?.multipliedReportingOverflow(by: scalarType.byteCount)
        guard let needed, !needed.overflow, needed.partialValue == byteCount else {
            throw CheckpointError(
                .malformed, file: file.path, tensor: name, byteOffset: byteOffset,
                "The file gives the tensor \(byteCount) bytes, which is not what its shape \(shape) of "
                    + "\(scalarType) asks for. Download the checkpoint again.")
        }
        let (end, overflow) = byteOffset.addingReportingOverflow(byteCount)
        guard byteOffset >= 0, !overflow, end <= file.byteCount else {
            throw CheckpointError(
                .truncated, file: file.path, tensor: name, byteOffset: byteOffset,
                "The tensor's \(byteCount) bytes reach past the end of the file at byte \(file.byteCount). "
                    + "The download may have been cut short: fetch the file again.")
        }
        self.specification = TensorSpecification(name: name, shape: shape, scalarType: scalarType)
        self.file = file
        self.byteOffset = byteOffset
    }
}
