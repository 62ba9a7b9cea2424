/// The element type of a stored tensor.
public enum ScalarType: String, Sendable, CaseIterable {
    case float16
    case bfloat16
    case float32

    /// The bytes of one element.
    public var byteCount: Int {
        switch self {
        case .float16, .bfloat16: 2
        case .float32: 4
        }
    }
}
