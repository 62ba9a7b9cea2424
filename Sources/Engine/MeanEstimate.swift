/// The mean of values that come one by one, and how sure it is.
public struct MeanEstimate: Sendable, Hashable, Codable {
    public private(set) var count = 0
    public private(set) var mean = 0.0
    /// Σ (value − mean)², by Welford's recurrence, which does not subtract large sums from each other.
    private var squaredDeviations = 0.0

    public init() {}

    public mutating func add(_ value: Double) {
        count += 1
        let deviation = value - mean
        mean += deviation / Double(count)
        squaredDeviations += deviation * (value - mean)
    }

    /// The values' standard deviation / √count, as if they did not depend on each other; nil for fewer than two.
    public var standardError: Double? {
        count < 2 ? nil : (squaredDeviations / Double(count - 1) / Double(count)).squareRoot()
    }
}
