/// What a generation took: counts, times in seconds, memory in bytes.
public struct GenerationReport: Sendable, Codable {
    public var promptTokenCounts: [Int]
    public var generatedTokenCounts: [Int]
    /// Until the first token of every sequence.
    public var prefillSeconds: Double
    /// Each decode step: one further token of each sequence that goes on.
    public var stepSeconds: [Double]
    /// When the first decode step began, in seconds since 1970: to hold steps against other programs' logs.
    public var decodeStart: Double
    public var keyValueCacheByteCount: Int
    /// The keys and values that the decode steps read, summed over the sequences.
    public var keyValueReadByteCount: Int
    /// What this process spent in all-reduces during the decode steps; nil where there is but one, and where nobody
    /// measures it.
    public var decodeReduceSeconds: Double?

    public var decodeSeconds: Double { stepSeconds.reduce(0, +) }
    /// Seconds of a decode step in all-reduces; nil where that is not known.
    public var reduceSecondsPerStep: Double? {
        stepSeconds.isEmpty ? nil : decodeReduceSeconds.map { $0 / Double(stepSeconds.count) }
    }
    public var totalSeconds: Double { prefillSeconds + decodeSeconds }
    public var promptTokenCount: Int { promptTokenCounts.reduce(0, +) }
    public var generatedTokenCount: Int { generatedTokenCounts.reduce(0, +) }

    /// Prompt tokens a second.
    public var prefillThroughput: Double { rate(promptTokenCount, prefillSeconds) }
    /// Generated tokens a second, the first of each sequence left out.
    public var decodeThroughput: Double {
        rate(generatedTokenCounts.reduce(0) { $0 + max(0, $1 - 1) }, decodeSeconds)
    }
    /// Generated tokens a second over all.
    public var totalThroughput: Double { rate(generatedTokenCount, totalSeconds) }

    /// The time of a decode step that `quantile` of the steps do not exceed; nil where there was none.
    public func stepSeconds(quantile: Double) -> Double? {
        if stepSeconds.isEmpty { return nil }
        let rank = Int((quantile * Double(stepSeconds.count)).rounded(.up)) - 1
        return stepSeconds.sorted()[max(0, min(rank, stepSeconds.count - 1))]
    }

    private func rate(_ count: Int, _ seconds: Double) -> Double {
        seconds > 0 ? Double(count) / seconds : 0
    }
}
