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
        /// What the machine sustains could not be measured, whatever stopped that.
        case machineNotMeasured
        case noTokenizer
        case invalidToken
    }

    public let code: Code
    /// What is wrong.
    public let reason: String
    /// What to do about it; nil where the reason says that, too.
    public let advice: String?

    public init(_ code: Code, _ reason: String, advice: String? = nil) {
        self.code = code
        self.reason = reason
        self.advice = advice
    }

    public var description: String { advice.map { "\(reason); \($0)" } ?? reason }
}

extension Error {
    /// A model has no room, whichever layer says so.
    package var isOutOfMemory: Bool {
        (self as? PlacementError)?.code == .outOfMemory || (self as? EngineError)?.code == .outOfMemory
            || (self as? ModelError)?.code == .outOfMemory
    }

    /// Why a model cannot be kept in a form, without what to do about it: it has no room, or its sizes do not allow the form.
    /// nil for other errors, which say nothing of the form.
    var refusalOfForm: String? {
        switch self {
        case let error as PlacementError where error.code == .outOfMemory: error.reason
        case let error as EngineError where error.code == .outOfMemory: error.reason
        case let error as ModelError where [.outOfMemory, .invalidConfiguration].contains(error.code):
            error.reason
        default: nil
        }
    }
}
