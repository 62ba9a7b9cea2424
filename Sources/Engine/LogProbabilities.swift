import Glibc

/// The log-probability of a token that was chosen, and of the likeliest there were.
public struct TokenLogProbabilities: Sendable, Hashable, Codable {
    public struct Entry: Sendable, Hashable, Codable {
        public var token: Int32
        /// Natural logarithm, of the model's own distribution: before temperature and penalties.
        public var logProbability: Float
    }

    public var chosen: Entry
    /// Likeliest first.
    public var likeliest: [Entry]
}

/// The logarithm of the sum of the exponentials, which turns logits into log-probabilities.
func logSumExp(_ logits: UnsafeBufferPointer<Float>) -> Float {
    let maximum = logits[Int(indexOfMaximum(logits))]
    var sum: Float = 0
    for logit in logits { sum += expf(logit - maximum) }
    return maximum + logf(sum)
}

/// The `count` likeliest tokens with their log-probabilities.
func likeliestTokens(
    _ logits: UnsafeBufferPointer<Float>, count: Int, logSumExp: Float
) -> [TokenLogProbabilities.Entry] {
    var best: [TokenLogProbabilities.Entry] = []
    for (token, logit) in logits.enumerated() {
        let logProbability = logit - logSumExp
        if best.count == count && logProbability <= best.last?.logProbability ?? .infinity { continue }
        let place = best.firstIndex { $0.logProbability < logProbability } ?? best.count
        best.insert(.init(token: Int32(token), logProbability: logProbability), at: place)
        if best.count > count { best.removeLast() }
    }
    return best
}
