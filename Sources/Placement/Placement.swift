/// Where every part of a model lies and who computes it: a request, cut to whole heads, neurons and rows.
///
/// All layers are alike. The token table is stored once, although it is the input and the output embedding: its rows
/// follow the *output* embedding's percentages, because as output embedding all of it is read in every step, as input
/// embedding one row. The *input* embedding's percentages place the position table. What is smaller than a few MB and
/// needed whole (biases, norms, 350m's two projections) is on the GPU and is not divided.
public struct Placement: Sendable, Hashable {
    public let shape: ModelShape
    public let request: PlacementRequest
    /// The heads of a layer.
    public let attention: LayerPlacement
    /// The neurons of a layer.
    public let mlp: LayerPlacement
    /// The rows of the token table; computing with it is making logits.
    public let tokenTable: LayerPlacement
    /// The rows of the position table.
    public let positionTable: LayerPlacement
    /// The heads of a layer, by where their keys and values lie.
    public let cacheHeads: RangeSplit

    /// Neurons and rows are cut in units of so many, which keeps every part aligned for the kernels.
    public static let rowUnit = 64

    public init(_ shape: ModelShape, _ request: PlacementRequest) {
        self.shape = shape
        self.request = request
        func cut(_ kind: LayerKind, _ count: Int, unit: Int) -> LayerPlacement {
            LayerPlacement(
                request.weights[kind], computationPercent: request.computation[kind], count: count, unit: unit
            )
        }
        attention = cut(.attention, shape.headCount, unit: 1)
        mlp = cut(.mlp, shape.feedForwardSize, unit: Self.rowUnit)
        tokenTable = cut(.outputEmbedding, shape.vocabularySize, unit: Self.rowUnit)
        positionTable = cut(.inputEmbedding, shape.positionRowCount, unit: Self.rowUnit)
        cacheHeads = RangeSplit(request.cache, count: shape.headCount)
    }

    /// How a kind of layer is cut: the input embedding is the position table, the output embedding the token table.
    public subscript(kind: LayerKind) -> LayerPlacement {
        switch kind {
        case .inputEmbedding: positionTable
        case .outputEmbedding: tokenTable
        case .attention: attention
        case .mlp: mlp
        }
    }

    /// The heads whose cache lies elsewhere than on the GPU although the GPU computes with their weights.
    public var gpuHeadsWithCacheElsewhere: Range<Int> {
        cacheHeads.gpu.upperBound..<attention.gpuComputed.upperBound
    }

    /// Whether the GPU needs weights in a step that do not lie on it.
    ///
    /// Position rows do not count: a step looks one up and needs no ring for it.
    public var streamsWeights: Bool {
        [attention, mlp, tokenTable].contains { !$0.streamed.isEmpty }
    }

    /// Whether the CPU computes a part of the layers.
    public var computesOnCPU: Bool {
        [attention, mlp, tokenTable].contains { !$0.cpuComputed.isEmpty }
    }
}

/// How one kind of layer is cut into contiguous ranges, by where its weights lie and by who computes it.
///
/// ```
/// |== GPU resident ==|-- streamed to GPU --|.... computed on CPU ....|
/// 0              weight GPU %       computation %                 100 %
/// |======= gpu ======|============ cpu ============|===== disk =====|
/// ```
public struct LayerPlacement: Sendable, Hashable {
    /// By where the bytes lie.
    public let weights: RangeSplit
    /// The GPU's share of the computation that was asked, in percent.
    public let askedComputationPercent: Double
    /// What the GPU computes: resident and streamed.
    public let gpuComputed: Range<Int>

    /// `computationPercent` must not be below the GPU's share of the weights.
    init(_ shares: TierShares, computationPercent: Double, count: Int, unit: Int) {
        precondition(
            shares.gpuPercent <= computationPercent,
            "weights \(shares.gpuPercent) %, computation \(computationPercent) %")
        weights = RangeSplit(shares, count: count, unit: unit)
        askedComputationPercent = computationPercent
        gpuComputed = 0..<RangeSplit.boundary(percent: computationPercent, count: count, unit: unit)
    }

    public var count: Int { weights.count }
    /// On the GPU, computed by it.
    public var resident: Range<Int> { weights.gpu }
    /// On CPU or disk, computed by the GPU.
    public var streamed: Range<Int> { weights.gpu.upperBound..<gpuComputed.upperBound }
    /// On CPU or disk, computed by the CPU.
    public var cpuComputed: Range<Int> { gpuComputed.upperBound..<count }

    /// The part of `streamed` that comes from `tier`.
    public func streamed(from tier: Tier) -> Range<Int> { streamed.clamped(to: weights[tier]) }

    /// The part of `cpuComputed` that lies on `tier`.
    public func cpuComputed(on tier: Tier) -> Range<Int> { cpuComputed.clamped(to: weights[tier]) }

    /// The GPU's share of the computation that was got, in percent; that asked where there is nothing to compute.
    public var gotComputationPercent: Double {
        count == 0 ? askedComputationPercent : 100 * Double(gpuComputed.count) / Double(count)
    }
}
