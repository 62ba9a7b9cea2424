import CPUKernels
import TensorCore

/// The runs of bytes of a tensor in a converted folder that have a digest each, CRC-32C, so that a part of it can be read
/// and checked alone: 16 outputs of a matrix kept by outputs, a group of one kept by inputs, and of another
/// tensor as many whole rows as 1 MiB holds, at least one. A vector is a row.
public enum DigestUnits: Sendable, Hashable {
    case tiles(QuantizedLayout)
    case rows(count: Int, rowByteCount: Int)

    /// Of a tensor that is not quantized.
    public init(_ specification: TensorSpecification) {
        let rowCount = specification.shape.rank == 2 ? specification.shape.dimensions[0] : 1
        self = .rows(
            count: rowCount, rowByteCount: rowCount == 0 ? 0 : specification.byteCount / rowCount)
    }

    /// The rows of a unit.
    private static func rowCount(_ rowByteCount: Int) -> Int { max(1, (1 << 20) / max(1, rowByteCount)) }

    public var count: Int {
        switch self {
        case .tiles(let layout): layout.unitCount
        case .rows(let count, let rowByteCount):
            (count + Self.rowCount(rowByteCount) - 1) / Self.rowCount(rowByteCount)
        }
    }

    public var byteCount: Int { bytes(of: 0..<count).count }

    /// Where units lie in the tensor.
    public func bytes(of units: Range<Int>) -> Range<Int> {
        offset(units.lowerBound)..<offset(units.upperBound)
    }

    private func offset(_ unit: Int) -> Int {
        switch self {
        case .tiles(let layout): layout.offset(ofUnit: unit)
        case .rows(let count, let rowByteCount):
            min(count, unit * Self.rowCount(rowByteCount)) * rowByteCount
        }
    }

    /// The units that hold rows of a tensor that is not quantized.
    func units(ofRows rows: Range<Int>) -> Range<Int> {
        guard case .rows(_, let rowByteCount) = self, !rows.isEmpty else { return 0..<0 }
        let rowCount = Self.rowCount(rowByteCount)
        return rows.lowerBound / rowCount..<(rows.upperBound - 1) / rowCount + 1
    }

    /// The digest of a unit that lies here.
    public static func digest(_ bytes: UnsafeRawPointer, byteCount: Int) -> UInt32 {
        tandem_crc32c(bytes, byteCount)
    }
}

extension TensorSpecification {
    /// The tensor that holds the digests of this one's units, UInt32 each, little-endian.
    public func companion(_ units: DigestUnits) -> TensorSpecification {
        TensorSpecification(
            name: name + Self.companionSuffix, shape: [units.count * MemoryLayout<UInt32>.size],
            scalarType: .uint8)
    }

    static let companionSuffix = ".digests"
}
