import SystemPackage

/// Asks for the fastest form of a model, in bits of weights and cache, that costs no more than so much perplexity.
public struct AutomaticCompression: Sendable, Hashable {
    /// How much higher the perplexity may be, of fp16's: 0.01 for 1 %.
    public var maximumLoss = 0.01
    /// The text that losses are measured on; nil for the one that the model was last measured on.
    public var text: String?
    /// Where losses are remembered; nil for a file in the user's cache.
    public var lossesFile: FilePath?

    /// Windows of a text's beginning that are scored, each of which gives its second half the first as context.
    public static let windowCount = 4
    /// The tokens of a window, where the model has so many positions.
    public static let windowLength = 2048
    /// Fewer would say more of the text than of the model.
    static let leastTokens = 512

    public init() {}

    /// What several processes that share a model are told; before they meet, by the command line.
    package static let refusalOfGroups = EngineError(
        .invalidOption,
        "--compress auto chooses for one process; tandem plan says what it chooses, to be given to all")

    static var rememberedFile: FilePath { CacheFolder.path.appending("compression-losses.json") }
}
