import Glibc
import Placement

/// How far one model's predictions are from another's, over the same positions of the same windows.
///
/// A value that is given both models' logits, a position at a time; `compare` in `Engine+Perplexity.swift` brings them.
public struct PerplexityComparison: Sendable, Hashable {
    public private(set) var reference = Perplexity()
    public private(set) var measured = Perplexity()
    /// KL(reference ‖ measured) = Σ p · (log p − log q) over the vocabulary, in nats a token; its standard error takes
    /// neighbouring tokens for independent.
    public private(set) var divergence = MeanEstimate()
    /// log p − log q of the tokens that came: how much less likely the measured model holds them, in nats a token. Of one
    /// position both are likely or unlikely together, so it is far surer than the two perplexities are.
    public private(set) var lostLikelihood = MeanEstimate()
    /// Positions at which both hold the same token for the likeliest.
    public private(set) var agreementCount = 0

    public init() {}

    public var positionCount: Int { divergence.count }

    /// The share of positions at which both hold the same token for the likeliest, in [0, 1].
    public var agreement: Double { Double(agreementCount) / Double(max(1, positionCount)) }

    /// How much higher the measured perplexity is, of the reference's: 0.01 for 1 %.
    public var perplexityLoss: PerplexityLoss { PerplexityLoss(lostLikelihood) }

    /// Adds a position: both models' logits, [vocabulary], or log-probabilities, of which `token` came.
    public mutating func add(reference: Span<Float>, measured: Span<Float>, token: Int32) {
        precondition(
            reference.count == measured.count,
            "PerplexityComparison: [\(reference.count)] against [\(measured.count)]")
        reference.withUnsafeBufferPointer { p in
            measured.withUnsafeBufferPointer { q in add(p, q, token: token) }
        }
    }

    private mutating func add(
        _ p: UnsafeBufferPointer<Float>, _ q: UnsafeBufferPointer<Float>, token: Int32
    ) {
        let (ofP, ofQ) = (LogNormalizer(p), LogNormalizer(q))
        reference.add(p, ofP, token: token)
        measured.add(q, ofQ, token: token)
        lostLikelihood.add(
            ofQ.negativeLogLikelihood(of: token, by: q) - ofP.negativeLogLikelihood(of: token, by: p))
        if ofP.likeliest == ofQ.likeliest { agreementCount += 1 }
        var difference = 0.0
        for index in p.indices {
            let weight = expf(p[index] - ofP.maximum)
            // 0 · log 0 is 0.
            if weight > 0 { difference += Double(weight) * Double(p[index] - q[index]) }
        }
        // Of equal distributions rounding may leave a little less than 0.
        divergence.add(max(0, difference / ofP.sum - ofP.logSumExp + ofQ.logSumExp))
    }
}

extension PerplexityLoss {
    /// - Parameter lostLikelihood: log p − log q of tokens.
    init(_ lostLikelihood: MeanEstimate) {
        self.init(
            expm1(lostLikelihood.mean),
            standardError: lostLikelihood.standardError.map { exp(lostLikelihood.mean) * $0 })
    }
}
