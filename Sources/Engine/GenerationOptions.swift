/// How a continuation is chosen, and where it ends.
public struct GenerationOptions: Sendable, Hashable {
    /// The most tokens to generate for each prompt; nil for 256 or what the model's positions leave.
    public var maximumTokens: Int?
    /// Before so many tokens neither the end-of-sequence token nor a stop string ends the text.
    public var minimumTokens = 0
    /// 0 takes the likeliest token (greedy); above, the logits are divided by it and a token is drawn.
    public var temperature: Float = 0
    /// Draws from the k likeliest tokens only; 0 for all.
    public var topK = 0
    /// Draws from the fewest tokens whose probabilities sum to p; 1 for all.
    public var topP: Float = 1
    /// Divides positive logits of tokens that occurred, and multiplies negative ones; 1 changes nothing.
    public var repetitionPenalty: Float = 1
    /// The same seed gives the same draws; nil takes one from the system.
    public var seed: UInt64?
    /// The text ends before the first occurrence of any of these.
    public var stopStrings: [String] = []
    /// Whether the end-of-sequence token ends the text.
    public var stopsAtEndOfSequence = true
    /// Reports the log-probability of each token and of so many of the likeliest; nil reports none.
    public var topLogProbabilities: Int?

    public init() {}

    /// Throws where a value has no meaning.
    func validate() throws(EngineError) {
        func require(_ condition: Bool, _ sentence: @autoclosure () -> String) throws(EngineError) {
            if !condition { throw EngineError(.invalidOption, sentence()) }
        }
        if let maximumTokens {
            try require(
                maximumTokens >= 1, "\(maximumTokens) tokens cannot be generated; ask for 1 or more")
            try require(
                minimumTokens <= maximumTokens,
                "the minimum of \(minimumTokens) tokens is above the maximum of \(maximumTokens)")
        }
        try require(minimumTokens >= 0, "the minimum of tokens is \(minimumTokens); give 0 or more")
        try require(
            temperature >= 0 && temperature.isFinite,
            "the temperature is \(temperature); give 0 (greedy) or more")
        try require(topK >= 0, "top-k is \(topK); give 0 (all tokens) or more")
        try require(topP > 0 && topP <= 1, "top-p is \(topP); give a number above 0, at most 1")
        try require(
            repetitionPenalty > 0 && repetitionPenalty.isFinite,
            "the repetition penalty is \(repetitionPenalty); give a number above 0 (1 changes nothing)")
        try require(
            !stopStrings.contains(""), "a stop string is empty, so that every text would end at once")
        if let topLogProbabilities {
            try require(
                topLogProbabilities >= 0 && topLogProbabilities <= 100,
                "\(topLogProbabilities) log-probabilities were asked for; give 0 to 100")
        }
    }
}
