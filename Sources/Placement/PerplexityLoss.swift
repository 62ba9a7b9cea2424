/// How much a model's perplexity has risen, of what it was: 0.01 for 1 %.
public struct PerplexityLoss: Sendable, Hashable, Codable {
    public var value: Double
    /// nil where it is not known.
    public var standardError: Double?

    public init(_ value: Double, standardError: Double? = nil) {
        self.value = value
        self.standardError = standardError
    }

    public static let none = PerplexityLoss(0)
}
