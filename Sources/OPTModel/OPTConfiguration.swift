import Placement
import TensorCore

/// The architecture of one OPT model, as its `config.json` says it.
public struct OPTConfiguration: Sendable, Hashable {
    public enum Activation: String, Sendable {
        case relu
        case gelu
    }

    /// What the model is called in reports: the last part of its name or folder.
    public var name: String
    public var layerCount: Int
    public var headCount: Int
    public var headDimension: Int
    public var hiddenSize: Int
    /// The neurons of a layer's MLP.
    public var feedForwardSize: Int
    public var vocabularySize: Int
    /// The longest sequence; the position table has `positionOffset` rows more.
    public var maximumPositions: Int
    /// The width of the token embedding; where it differs from `hiddenSize`, `project_in` and `project_out` join them.
    public var embeddingSize: Int
    public var activation: Activation
    /// Layer norms stand before attention and MLP (all but 350m), else behind their residual sums.
    public var normalizesBefore: Bool
    public var hasFinalLayerNorm: Bool
    public var hasBiases: Bool
    public var hasAffineLayerNorms: Bool
    public var beginOfSequence: Int32
    public var endOfSequence: Int32
    public var padding: Int32
    /// Keys and values are kept in 4 bits, not in fp16.
    public var hasQuantizedCache = false
    /// How the layers' matrices are kept; nil for fp16.
    public var quantization: Quantization?

    /// The row of position 0 in the position table.
    public static let positionOffset = 2
    public static let layerNormEpsilon: Float = 1e-5

    /// The width of all heads together; less than the hidden size where this is a part of a model.
    public var attentionWidth: Int { headCount * headDimension }
    public var hasEmbeddingProjections: Bool { embeddingSize != hiddenSize }
    /// Queries are scaled by it after their bias.
    public var queryScale: Float { 1 / Float(headDimension).squareRoot() }

    /// In how many bits weights and cache are kept.
    public var compressionForm: CompressionForm {
        CompressionForm(quantization, compressesCache: hasQuantizedCache)
    }

    /// Of an element of the cache.
    var cacheBits: Int { hasQuantizedCache ? 4 : 16 }

    /// A head's key or value of one position in the cache, in bytes.
    public var cachePositionByteCount: Int {
        hasQuantizedCache
            ? Quantization.cachePositionByteCount(headDimension: headDimension)
            : headDimension * MemoryLayout<UInt16>.size
    }

    /// The position table in fp16, in bytes: a step looks rows up and does not read it.
    public var positionTableByteCount: Int { (maximumPositions + Self.positionOffset) * hiddenSize * 2 }

    /// The sizes that placing needs.
    public var shape: ModelShape {
        var shape = ModelShape(
            layerCount: layerCount, headCount: headCount, headDimension: headDimension,
            hiddenSize: hiddenSize,
            feedForwardSize: feedForwardSize, vocabularySize: vocabularySize)
        shape.embeddingSize = embeddingSize
        shape.positionRowCount = maximumPositions + Self.positionOffset
        shape.hasBiases = hasBiases
        shape.hasAffineLayerNorms = hasAffineLayerNorms
        shape.hasFinalLayerNorm = hasFinalLayerNorm
        shape.quantization = quantization
        shape.hasQuantizedCache = hasQuantizedCache
        return shape
    }

    /// The floating-point operations of one prompt's prefill: two for each weight and token, the causal half of
    /// attention, and the logits of the last position.
    public func prefillOperationCount(promptLength: Int) -> Double {
        let layerWeights = Double(hiddenSize * (4 * hiddenSize + 2 * feedForwardSize))
        let pairs = Double(promptLength * (promptLength + 1) / 2)
        let perLayer = 2 * layerWeights * Double(promptLength) + 4 * pairs * Double(hiddenSize)
        return Double(layerCount) * perLayer + 2 * Double(vocabularySize * embeddingSize)
    }
}

extension OPTConfiguration {
    /// The published sizes, for random weights without a folder.
    ///
    /// `name` may carry an organisation ("facebook/opt-1.3b"); nil where no such model was published.
    public init?(publishedModel name: String) {
        let model = name.split(separator: "/").last.map(String.init)?.lowercased() ?? name
        var size = model
        for family in ["opt-iml-max-", "opt-iml-", "opt-", "galactica-"] where model.hasPrefix(family) {
            size = String(model.dropFirst(family.count))
            break
        }
        guard size != model, let shape = Self.publishedShapes[size] else { return nil }
        let isGalactica = model.hasPrefix("galactica-")
        let is350M = size == "350m"
        self.init(
            name: model, layerCount: shape.layers, headCount: shape.heads,
            headDimension: shape.hidden / shape.heads, hiddenSize: shape.hidden,
            feedForwardSize: 4 * shape.hidden, vocabularySize: isGalactica ? 50000 : 50272,
            maximumPositions: 2048, embeddingSize: is350M ? 512 : shape.hidden,
            activation: isGalactica ? .gelu : .relu, normalizesBefore: !is350M, hasFinalLayerNorm: !is350M,
            hasBiases: !isGalactica, hasAffineLayerNorms: true,
            beginOfSequence: isGalactica ? 0 : 2, endOfSequence: 2, padding: 1)
    }

    /// The sizes that `init(publishedModel:)` knows, smallest first.
    public static let publishedSizes = [
        "125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b", "175b",
    ]

    private static let publishedShapes: [String: (layers: Int, heads: Int, hidden: Int)] = [
        "125m": (12, 12, 768), "350m": (24, 16, 1024), "1.3b": (24, 32, 2048), "2.7b": (32, 32, 2560),
        "6.7b": (32, 32, 4096), "13b": (40, 40, 5120), "30b": (48, 56, 7168), "66b": (64, 72, 9216),
        "175b": (96, 96, 12288),
    ]
}

extension OPTConfiguration {
    /// Eight digits that are equal for models of the same architecture and sizes, whatever they are called.
    public var digest: String {
        var anonymous = self
        anonymous.name = ""
        // FNV-1a.
        let hash = "\(anonymous)".utf8.reduce(0x811c_9dc5 as UInt32) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
        let digits = String(hash, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}
