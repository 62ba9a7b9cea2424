import Glibc

/// How well a model predicts the tokens of a text: exp of the mean of −log p(token | the tokens before it).
public struct Perplexity: Sendable, Hashable {
    /// −log p of the tokens, in nats a token.
    public private(set) var negativeLogLikelihood = MeanEstimate()

    public init() {}

    /// Scores a token by the logits, [vocabulary], of the position in front of it.
    public mutating func add(_ logits: Span<Float>, token: Int32) {
        logits.withUnsafeBufferPointer { add($0, LogNormalizer($0), token: token) }
    }

    mutating func add(_ logits: UnsafeBufferPointer<Float>, _ normalizer: LogNormalizer, token: Int32) {
        negativeLogLikelihood.add(normalizer.negativeLogLikelihood(of: token, by: logits))
    }

    public var tokenCount: Int { negativeLogLikelihood.count }

    /// Not a number where no token was scored.
    public var value: Double { tokenCount == 0 ? .nan : exp(negativeLogLikelihood.mean) }

    /// The standard error of `value` by the delta method: value · standard deviation of −log p / √tokens; nil for fewer
    /// than two tokens. Neighbouring tokens are taken for independent, which makes it a little too small: a passage that
    /// is hard to predict is hard for more than one token.
    public var standardError: Double? { negativeLogLikelihood.standardError.map { value * $0 } }
}
