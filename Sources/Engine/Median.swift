extension Collection<Double> {
    /// The value in the middle, of an even count the mean of the two; nil for none.
    public var median: Double? {
        if isEmpty { return nil }
        let sorted = sorted()
        return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2
    }
}
