import ArgumentParser
import Engine

/// How tokens are chosen; what is not given comes from the model's generation_config.json.
struct SamplingArguments: ParsableArguments {
    @Option(
        name: [.long, .customLong("gen-len")],
        help: ArgumentHelp(
            "The most tokens to generate (256, or what the model has room for).", valueName: "count"))
    var maxTokens: Int?

    @Option(help: ArgumentHelp("Tokens before which nothing ends the text.", valueName: "count"))
    var minTokens: Int?

    @Option(help: "0 takes the likeliest token; above, tokens are drawn.")
    var temperature: Float?

    @Option(help: ArgumentHelp("Draw from the k likeliest tokens only; 0 for all.", valueName: "k"))
    var topK: Int?

    @Option(help: ArgumentHelp("Draw from the fewest tokens that hold p of the probability.", valueName: "p"))
    var topP: Float?

    @Option(help: ArgumentHelp("Weakens tokens that occurred; 1 changes nothing.", valueName: "factor"))
    var repetitionPenalty: Float?

    @Option(help: "The same seed gives the same text.")
    var seed: UInt64?

    @Option(
        help: ArgumentHelp("End the text before this string; may be given several times.", valueName: "text"))
    var stop: [String] = []

    @Option(
        name: .customLong("logprobs"),
        help: ArgumentHelp("With --json: log-probabilities of so many likeliest tokens.", valueName: "count"))
    var logProbabilities: Int?

    @Flag(help: "Go on after the end-of-sequence token.")
    var ignoreEndOfSequence = false

    func options(over defaults: GenerationOptions) -> GenerationOptions {
        var options = defaults
        if let maxTokens { options.maximumTokens = maxTokens }
        if let minTokens { options.minimumTokens = minTokens }
        if let temperature { options.temperature = temperature }
        if let topK { options.topK = topK }
        if let topP { options.topP = topP }
        if let repetitionPenalty { options.repetitionPenalty = repetitionPenalty }
        if let seed { options.seed = seed }
        options.stopStrings = stop
        options.topLogProbabilities = logProbabilities
        options.stopsAtEndOfSequence = !ignoreEndOfSequence
        return options
    }
}
