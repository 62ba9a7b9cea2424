import TensorCore

/// The header of a safetensors file that is to be written, and where its tensors will lie.
public struct SafetensorsLayout: Sendable {
    /// The header's byte count and the header, padded with spaces so that the first tensor begins at a multiple of 64.
    public let header: [UInt8]
    /// Where each tensor begins in the file, in the order given.
    public let offsets: [Int]
    /// The whole file's.
    public let byteCount: Int

    private static let alignment = 64

    /// - Parameter tensors: in the order in which they lie, their names without quotes and backslashes.
    public init(_ tensors: [TensorSpecification]) {
        var members = ["\"__metadata__\":{\"format\":\"pt\"}"]
        var ends = [0]
        for tensor in tensors {
            let end = ends.last! + tensor.byteCount
            members.append(
                "\"\(tensor.name)\":{\"dtype\":\"\(tensor.scalarType.safetensorsName)\","
                    + "\"shape\":\(tensor.shape),\"data_offsets\":[\(ends.last!),\(end)]}")
            ends.append(end)
        }
        var text = Array("{\(members.joined(separator: ","))}".utf8)
        while (8 + text.count) % Self.alignment != 0 { text.append(UInt8(ascii: " ")) }
        header = (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text
        let start = header.count
        offsets = ends.dropLast().map { start + $0 }
        byteCount = start + ends.last!
    }
}

extension TensorSpecification {
    /// The bytes of a tensor that is in memory, or is to be.
    public var byteCount: Int { shape.elementCount! * scalarType.byteCount }
}

extension ScalarType {
    private static let safetensorsNames: [ScalarType: String] = [
        .float16: "F16", .bfloat16: "BF16", .float32: "F32", .uint8: "U8",
    ]

    var safetensorsName: String { Self.safetensorsNames[self]! }

    /// nil for element types that are not read.
    init?(safetensorsName name: String) {
        guard let type = Self.safetensorsNames.first(where: { $0.value == name })?.key else { return nil }
        self = type
    }
}
