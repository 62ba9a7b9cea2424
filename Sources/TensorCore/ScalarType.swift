/// The element type of a stored tensor.
public enum ScalarType: String, Sendable, CaseIterable {
    case float16
    case bfloat16
    case float32
    /// Bytes that are no numbers by themselves: tiles of quantized weights, and digests.
    case uint8

    /// The bytes of one element.
    public var byteCount: Int {
        switch self {
        case .float16, .bfloat16: 2
        case .float32: 4
        case .uint8: 1
        }
    }
}
