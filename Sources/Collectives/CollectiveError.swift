/// What keeps the processes of a group from working together, in a sentence that says what to do.
public struct CollectiveError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        case address
        case unreachable
        case disagreement
        case lostRank
        case missingLibrary
        case library
        case timeout
    }

    public let code: Code
    public let description: String
    /// Another rank says it to whoever runs the group.
    public let isSaidElsewhere: Bool

    public init(_ code: Code, _ description: String, isSaidElsewhere: Bool = false) {
        self.code = code
        self.description = description
        self.isSaidElsewhere = isSaidElsewhere
    }
}
