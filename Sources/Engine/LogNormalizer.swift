import Glibc

/// What makes log-probabilities of a row of logits: log p(token) = logit − logSumExp.
///
/// Exponentials are fp32, their sum is in Double: it has as many terms as the vocabulary has tokens.
struct LogNormalizer {
    /// The token with the largest logit.
    let likeliest: Int32
    let maximum: Float
    /// Σ exp(logit − maximum)
    let sum: Double

    init(_ logits: UnsafeBufferPointer<Float>) {
        likeliest = indexOfMaximum(logits)
        maximum = logits[Int(likeliest)]
        var sum = 0.0
        for logit in logits { sum += Double(expf(logit - maximum)) }
        self.sum = sum
    }

    /// log Σ exp(logit)
    var logSumExp: Double { Double(maximum) + log(sum) }

    /// −log p of a token, by the logits that this is of.
    func negativeLogLikelihood(of token: Int32, by logits: UnsafeBufferPointer<Float>) -> Double {
        logSumExp - Double(logits[Int(token)])
    }
}
