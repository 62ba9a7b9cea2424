import OPTModel
import Placement

/// What the engine refuses, in a sentence that says what to do instead.
public struct EngineError: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case modelNotFound
        case invalidOption
        case emptyPrompt
        case positionsExceeded
        case outOfMemory
        case noGPU
        case noTokenizer
        case invalidToken
    }

    public let code: Code
    public let description: String

    public init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}

extension Error {
    /// A model has no room, whichever layer says so.
    package var isOutOfMemory: Bool {
        (self as? PlacementError)?.code == .outOfMemory || (self as? EngineError)?.code == .outOfMemory
            || (self as? ModelError)?.code == .outOfMemory
    }
}
