/// What a placement refuses, in a sentence that says what to give instead.
public struct PlacementError: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// A percentage is negative, over 100 or not a number, or those of GPU and CPU are over 100 together.
        case invalidPercent
        /// A flag has too few or too many numbers.
        case wrongCount
        /// More weights would lie on the GPU than it is to compute with.
        case weightsExceedComputation
        /// The cache of more heads would lie on the GPU than it is to compute.
        case cacheExceedsComputation
        /// A tier has too little room.
        case outOfMemory
    }

    public let code: Code
    /// What is wrong.
    public let reason: String
    /// What to do about it; nil where the reason says that, too.
    public let advice: String?
    /// With `outOfMemory`: a request that fits, if one was found.
    public let suggestion: PlacementRequest?

    public init(
        _ code: Code, _ reason: String, advice: String? = nil, suggestion: PlacementRequest? = nil
    ) {
        self.code = code
        self.reason = reason
        self.advice = advice
        self.suggestion = suggestion
    }

    public var description: String { advice.map { "\(reason); \($0)" } ?? reason }
}
