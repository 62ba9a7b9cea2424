/// Requests from the numbers of the command line's flags, and back.
extension PlacementRequest {
    /// `--per-layer-percent`: four pairs *GPU % CPU %* in the order of `LayerKind`; the GPU computes everything.
    ///
    /// `cachePercent` is the pair of `--cache-percent`; without one, the cache is on the GPU.
    /// Throws `wrongCount` and `invalidPercent`, in a sentence that begins with the flag.
    public init(perLayerPercent: [Double], cachePercent: [Double]? = nil) throws(PlacementError) {
        let flag = WeightFlag.perLayerPercent
        let weights = try Self.weights(perLayerPercent, of: flag)
        var cache = TierShares.allOnGPU
        if let cachePercent { cache = try Self.cacheShares(cachePercent) }
        try self.init(weights: weights, cache: cache, weightFlag: flag)
    }

    /// `--per-layer-weight-percent` (as `--per-layer-percent`) and `--per-layer-computation-percent`: the GPU's
    /// percentage of each kind's computation.
    ///
    /// Without `cachePercent`, the cache of the heads that the GPU computes is on the GPU and the rest on the CPU.
    /// Throws as the other initialisers do.
    public init(
        perLayerWeightPercent: [Double], perLayerComputationPercent: [Double], cachePercent: [Double]? = nil
    ) throws(PlacementError) {
        let flag = WeightFlag.perLayerWeightPercent
        let weights = try Self.weights(perLayerWeightPercent, of: flag)
        let computationFlag = "--per-layer-computation-percent"
        try Self.checkCount(
            perLayerComputationPercent, 4, "four numbers, the GPU's percentage for each of \(Self.kindList)",
            of: computationFlag)
        var computation = PerLayerKind(repeating: 100.0)
        for (kind, percent) in zip(LayerKind.allCases, perLayerComputationPercent) {
            try TierShares.checkPercent(percent, "\(computationFlag): \(kind.label): the GPU's percentage")
            computation[kind] = percent
        }
        let computed = computation.attention
        var cache = try TierShares(gpuPercent: computed, cpuPercent: 100 - computed)
        if let cachePercent { cache = try Self.cacheShares(cachePercent) }
        try self.init(weights: weights, cache: cache, computation: computation, weightFlag: flag)
    }

    /// `--cache-percent`: GPU % and CPU % of the cache.
    ///
    /// Throws `wrongCount` and `invalidPercent`.
    public static func cacheShares(_ cachePercent: [Double]) throws(PlacementError) -> TierShares {
        let flag = "--cache-percent"
        try checkCount(cachePercent, 2, "two numbers, GPU % and CPU % of the cache", of: flag)
        return try shares(cachePercent, context: flag)
    }

    /// The flag and numbers that ask for the weights of this request, as one would type them.
    public var weightArguments: String {
        let numbers = LayerKind.allCases.map { weights[$0].argumentText }
        return "\(weightFlag.rawValue) \(numbers.joined(separator: " "))"
    }

    /// The flag and numbers that ask for the computation of this request, as one would type them; empty where the GPU
    /// computes everything, as `--per-layer-percent` says.
    public var computationArguments: String {
        if weightFlag == .perLayerPercent { return "" }
        let numbers = LayerKind.allCases.map { computation[$0].plainText }
        return "--per-layer-computation-percent \(numbers.joined(separator: " "))"
    }

    /// The flag and numbers that ask for the cache of this request, as one would type them.
    public var cacheArguments: String { "--cache-percent \(cache.argumentText)" }

    private static let kindList = "input embedding, output embedding, self-attention and MLP"

    private static func weights(
        _ numbers: [Double], of flag: WeightFlag
    ) throws(PlacementError) -> PerLayerKind<TierShares> {
        try checkCount(
            numbers, 8, "eight numbers, GPU % and CPU % for each of \(kindList)", of: flag.rawValue)
        var weights = PerLayerKind(repeating: TierShares.allOnDisk)
        for (index, kind) in LayerKind.allCases.enumerated() {
            weights[kind] = try shares(
                Array(numbers[2 * index..<2 * index + 2]), context: "\(flag.rawValue): \(kind.label)")
        }
        return weights
    }

    private static func shares(_ pair: [Double], context: String) throws(PlacementError) -> TierShares {
        do {
            return try TierShares(gpuPercent: pair[0], cpuPercent: pair[1])
        } catch {
            throw PlacementError(error.code, "\(context): \(error.description)")
        }
    }

    private static func checkCount(
        _ numbers: [Double], _ count: Int, _ meaning: String, of flag: String
    ) throws(PlacementError) {
        guard numbers.count == count else {
            throw PlacementError(
                .wrongCount,
                "\(flag) takes \(meaning); \(numbers.count) \(numbers.count == 1 ? "was" : "were") given")
        }
    }
}

extension TierShares {
    /// The shares as a flag takes them: GPU % and CPU %.
    var argumentText: String { "\(gpuPercent.plainText) \(cpuPercent.plainText)" }
}
