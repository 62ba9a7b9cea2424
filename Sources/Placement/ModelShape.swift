import TensorCore

/// The sizes of a model, or of one rank's shard of it, that placing needs.
///
/// A head is its rows of the query, key and value projections and its columns of the output projection; a neuron is its
/// row of fc1 and its column of fc2. Weights count `bytesPerWeight` each, those of layers less where they are quantized; biases
/// and norms are kept in fp32.
public struct ModelShape: Sendable, Hashable {
    public var layerCount: Int
    public var headCount: Int
    public var headDimension: Int
    public var hiddenSize: Int
    /// The neurons of a layer's MLP.
    public var feedForwardSize: Int
    /// The rows of the token table, which is the output embedding too.
    public var vocabularySize: Int
    /// The width of the token table; where it differs from `hiddenSize`, two projections join them (350m).
    public var embeddingSize: Int
    /// The rows of the position table.
    public var positionRowCount = 2050
    public var bytesPerWeight = 2
    /// How the layers' matrices are kept; nil for `bytesPerWeight`.
    public var quantization: Quantization?
    /// Keys and values are kept in 4 bits, not in fp16.
    public var hasQuantizedCache = false
    public var hasBiases = true
    public var hasAffineLayerNorms = true
    public var hasFinalLayerNorm = true

    /// A shape with embeddings of the hidden size, and else as most OPT models are.
    public init(
        layerCount: Int, headCount: Int, headDimension: Int, hiddenSize: Int, feedForwardSize: Int,
        vocabularySize: Int
    ) {
        self.layerCount = layerCount
        self.headCount = headCount
        self.headDimension = headDimension
        self.hiddenSize = hiddenSize
        self.feedForwardSize = feedForwardSize
        self.vocabularySize = vocabularySize
        embeddingSize = hiddenSize
    }

    public var hasEmbeddingProjections: Bool { embeddingSize != hiddenSize }
}

extension ModelShape {
    /// The bytes of one element of the KV cache.
    static let bytesPerCacheElement = 2
    /// The bytes of one element of a bias or norm.
    static let bytesPerVectorElement = 4

    /// The weights of one head, and of one neuron, of one layer.
    var weightsPerHead: Int { 4 * headDimension * hiddenSize }
    var weightsPerNeuron: Int { 2 * hiddenSize }

    /// The weights of one head of one layer, in bytes.
    public var bytesPerHead: Int {
        guard let quantization else { return weightsPerHead * bytesPerWeight }
        return quantization.byteCount(outputs: 3 * headDimension, inputs: hiddenSize)
            + quantization.byteCount(
                outputs: hiddenSize, inputs: headDimension,
                period: Quantization.period(headDimension: headDimension))
    }
    /// The weights of one neuron of one layer, in bytes.
    public var bytesPerNeuron: Int {
        guard let quantization else { return weightsPerNeuron * bytesPerWeight }
        let group = Quantization.groupSize
        return
            (quantization.byteCount(outputs: group, inputs: hiddenSize)
            + quantization.byteCount(outputs: hiddenSize, inputs: group)) / group
    }
    /// One row of the token table, in bytes.
    public var bytesPerTokenRow: Int { embeddingSize * bytesPerWeight }
    /// One row of the position table, in bytes.
    public var bytesPerPositionRow: Int { hiddenSize * bytesPerWeight }

    /// `project_in` and `project_out`, in bytes; 0 where there are none.
    public var projectionByteCount: Int {
        hasEmbeddingProjections ? 2 * hiddenSize * embeddingSize * bytesPerWeight : 0
    }

    /// All biases and norms of the model in fp32, in bytes.
    public var vectorByteCount: Int {
        let biases = hasBiases ? 3 * headCount * headDimension + feedForwardSize + 2 * hiddenSize : 0
        let norms = hasAffineLayerNorms ? 4 * hiddenSize : 0
        let finalNorm = hasAffineLayerNorms && hasFinalLayerNorm ? 2 * hiddenSize : 0
        return (layerCount * (biases + norms) + finalNorm) * Self.bytesPerVectorElement
    }

    /// The keys and values of one head at one position, all layers, in bytes.
    public var cacheBytesPerHead: Int { 2 * layerCount * cachePositionByteCount }

    /// The same of one layer's keys alone: with 4 bits the codes, and scale and minimum of each group.
    private var cachePositionByteCount: Int {
        hasQuantizedCache
            ? Quantization.cachePositionByteCount(headDimension: headDimension)
            : headDimension * Self.bytesPerCacheElement
    }
}
