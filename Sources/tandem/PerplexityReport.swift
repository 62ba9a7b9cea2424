import Engine
import FoundationEssentials
import Glibc
import Placement

/// A model's perplexity on a text, and how it was measured.
struct PerplexityReport: Codable {
    var model: String
    /// In how many bits weights and cache are kept: "fp16", "weights in 4 bits".
    var compression: String
    /// How that was chosen; empty where it was given.
    var compressionChoice: [String]
    var threads: Int
    var instructionSet: String
    /// The GPU, where it computes.
    var gpu: String?
    /// Where everything lies, asked and got; empty where the CPU computes alone.
    var placement: [String]
    /// What each process has; empty where there is but one.
    var ranks: [RankReport]

    var window: Int
    var stride: Int
    /// Those of the text, or as many as were asked for.
    var textTokens: Int
    /// Fewer than the text has where it was interrupted.
    var scoredTokens: Int
    var windows: Int
    /// −log p, the mean in nats a token.
    var negativeLogLikelihood: Double
    /// Not there where fewer than two tokens were scored before it was interrupted.
    var perplexity: Double?
    var standardError: Double?
    var seconds: Double
    var tokensPerSecond: Double
    /// With --against.
    var comparison: Comparison?

    /// How far the predictions are from another model's.
    struct Comparison: Codable {
        /// "opt-1.3b in fp16"
        var reference: String
        var referenceGPU: String?
        var referencePlacement: [String]
        /// What is not there could not be said of fewer than two tokens, all that was scored before it was interrupted.
        var referencePerplexity: Double?
        var referenceStandardError: Double?
        /// How much higher the perplexity is, in percent of the reference's.
        var perplexityLossPercent: Double?
        var perplexityLossStandardErrorPercent: Double?
        /// The mean Kullback-Leibler divergence of the predictions from the reference's, in nats a token.
        var divergence: Double
        var divergenceStandardError: Double?
        /// The share of positions at which both hold the same token for the likeliest.
        var agreement: Double

        init(_ comparison: PerplexityComparison, with engine: Engine) {
            reference = PerplexityReference.label(of: engine.configuration)
            referenceGPU = engine.gpuName
            referencePlacement = engine.placement?.reportLines ?? []
            divergence = comparison.divergence.mean
            divergenceStandardError = comparison.divergence.standardError
            agreement = comparison.agreement
            if let standardError = comparison.reference.standardError {
                referencePerplexity = comparison.reference.value
                referenceStandardError = standardError
                let loss = comparison.perplexityLoss
                perplexityLossPercent = 100 * loss.value
                perplexityLossStandardErrorPercent = loss.standardError.map { 100 * $0 }
            }
        }

        fileprivate var lines: [String] {
            guard let referencePerplexity, let referenceStandardError, let perplexityLossPercent,
                let perplexityLossStandardErrorPercent, let divergenceStandardError
            else { return [] }
            // With as many decimals as the error takes to say something.
            func number(_ value: Double, _ error: Double, _ leastDecimals: Int) -> String {
                let needed = error > 0 ? 1 - Int(log10(error).rounded(.down)) : 0
                let decimals = min(max(leastDecimals, needed), 9)
                return "\(value.formatted(decimals: decimals)) ± \(error.formatted(decimals: decimals))"
            }
            let loss = number(abs(perplexityLossPercent), perplexityLossStandardErrorPercent, 2)
            return referencePlacement + [
                "\(reference): \(number(referencePerplexity, referenceStandardError, 3))",
                "perplexity is \(loss) % \(perplexityLossPercent < 0 ? "lower" : "higher")",
                "KL divergence: \(number(divergence, divergenceStandardError, 4)) nats a token",
                "the same likeliest token at \((100 * agreement).formatted(decimals: 1)) % of positions",
            ]
        }
    }

    init(
        engine: Engine, _ perplexity: Perplexity, _ windows: SlidingWindows, seconds: Double,
        ranks: [RankReport]
    ) {
        model = engine.configuration.name
        compression = engine.configuration.compressionForm.label
        compressionChoice = engine.compression?.reportLines ?? []
        threads = engine.threadCount
        instructionSet = engine.instructionSet.rawValue
        gpu = engine.gpuName
        placement = engine.placement?.reportLines ?? []
        self.ranks = ranks
        window = windows.length
        stride = windows.stride
        textTokens = windows.tokenCount
        scoredTokens = perplexity.tokenCount
        self.windows = scoredTokens == 0 ? 0 : windows.count(scoring: scoredTokens)
        negativeLogLikelihood = perplexity.negativeLogLikelihood.mean
        standardError = perplexity.standardError
        self.perplexity = standardError == nil ? nil : perplexity.value
        self.seconds = seconds
        tokensPerSecond = Double(scoredTokens) / seconds
    }

    var text: String {
        let place =
            (ranks.isEmpty ? "" : "\(ranks.count) ranks, each ")
            + (gpu ?? "\(threads) threads, \(instructionSet)")
        var lines =
            compressionChoice + placement + [
                "\(model)\(compression == "fp16" ? "" : ", \(compression)"), \(place)"
            ]
        if let perplexity, let standardError {
            lines.append(
                "perplexity: \(perplexity.formatted(decimals: 3)) ± \(standardError.formatted(decimals: 3))   "
                    + "(\(negativeLogLikelihood.formatted(decimals: 4)) nats a token)")
        }
        lines += comparison?.lines ?? []
        lines.append(
            "\(scoredTokens) \(scoredTokens < textTokens ? "of \(textTokens) " : "")tokens in "
                + (windows == 1
                    ? "1 window of \(window)" : "\(windows) windows of \(window), \(stride) apart"))
        lines.append(
            "\(seconds.formatted(decimals: 3)) s, \(tokensPerSecond.formatted(decimals: 1)) tokens/s")
        return lines.joined(separator: "\n") + "\n"
    }

    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }
}
