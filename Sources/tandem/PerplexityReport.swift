import Engine
import FoundationEssentials

/// A model's perplexity on a text, and how it was measured.
struct PerplexityReport: Codable {
    var model: String
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

    init(
        engine: Engine, _ perplexity: Perplexity, _ windows: SlidingWindows, seconds: Double,
        ranks: [RankReport]
    ) {
        model = engine.configuration.name
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
        var lines = placement + ["\(model), \(place)"]
        if let perplexity, let standardError {
            lines.append(
                "perplexity: \(perplexity.formatted(decimals: 3)) ± \(standardError.formatted(decimals: 3))   "
                    + "(\(negativeLogLikelihood.formatted(decimals: 4)) nats a token)")
        }
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
