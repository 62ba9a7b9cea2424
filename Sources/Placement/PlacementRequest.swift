/// What is asked of a placement: where weights and cache lie, and how much of the computation is the GPU's.
///
/// All numbers are percentages. The weights on the GPU never exceed what the GPU computes, nor does the cache.
public struct PlacementRequest: Sendable, Hashable {
    /// The flag that gave the weights' percentages, as sentences name it.
    public enum WeightFlag: String, Sendable, Hashable {
        case perLayerPercent = "--per-layer-percent"
        case perLayerWeightPercent = "--per-layer-weight-percent"
    }

    public let weights: PerLayerKind<TierShares>
    /// The cache, divided by heads.
    public let cache: TierShares
    /// The GPU's percentage of the computation: 100 means that all weights elsewhere are streamed to it.
    public let computation: PerLayerKind<Double>
    public let weightFlag: WeightFlag

    /// A request from its parts.
    ///
    /// Throws `invalidPercent` for a computation that is no percentage, `weightsExceedComputation` and
    /// `cacheExceedsComputation`.
    public init(
        weights: PerLayerKind<TierShares>, cache: TierShares,
        computation: PerLayerKind<Double> = PerLayerKind(repeating: 100),
        weightFlag: WeightFlag = .perLayerPercent
    ) throws(PlacementError) {
        for kind in LayerKind.allCases {
            let computed = computation[kind]
            try TierShares.checkPercent(computed, "the GPU's computation percentage of \(kind.label)")
            guard weights[kind].gpuPercent <= computed else {
                throw PlacementError(
                    .weightsExceedComputation,
                    "\(kind.label) has \(weights[kind].gpuPercent.plainText) % of its weights on the GPU, which computes "
                        + "\(computed.plainText) % of it; give \(weightFlag.rawValue) at most "
                        + "\(computed.plainText) % there, or the GPU more of the computation")
            }
        }
        guard cache.gpuPercent <= computation.attention else {
            throw PlacementError(
                .cacheExceedsComputation,
                "\(cache.gpuPercent.plainText) % of the cache are on the GPU, which computes "
                    + "\(computation.attention.plainText) % of self-attention; give --cache-percent at most "
                    + "\(computation.attention.plainText) % there, or the GPU more of the computation")
        }
        self.init(unchecked: weights, cache: cache, computation: computation, weightFlag: weightFlag)
    }

    /// Whether the CPU computes a part of some kind of layer beside a GPU.
    public var usesBothLanes: Bool {
        [LayerKind.outputEmbedding, .attention, .mlp].contains { computation[$0] < 100 }
    }

    /// Everything in CPU memory, computed there.
    public static let allOnCPU = PlacementRequest(
        unchecked: PerLayerKind(repeating: .allOnCPU), cache: .allOnCPU,
        computation: PerLayerKind(repeating: 0), weightFlag: .perLayerWeightPercent)

    /// Whether weights and cache lie on the GPU, all of them.
    public var isAllOnGPU: Bool {
        cache == .allOnGPU && LayerKind.allCases.allSatisfy { weights[$0] == .allOnGPU }
    }

    /// A request whose parts are known to be right.
    init(
        unchecked weights: PerLayerKind<TierShares>, cache: TierShares, computation: PerLayerKind<Double>,
        weightFlag: WeightFlag
    ) {
        self.weights = weights
        self.cache = cache
        self.computation = computation
        self.weightFlag = weightFlag
    }
}
