import TensorCore

/// In how many bits a model's weights and its cache are kept.
public struct CompressionForm: Sendable, Hashable, Codable {
    /// Of a weight of the layers' matrices: 16, 8 or 4.
    public let weightBits: Int
    /// Of an element of keys and values: 16 or 4.
    public let cacheBits: Int

    public init(_ quantization: Quantization?, compressesCache: Bool) {
        weightBits = quantization?.bits ?? 16
        cacheBits = compressesCache ? 4 : 16
    }

    public static let fp16 = CompressionForm(nil, compressesCache: false)

    /// nil for fp16.
    public var quantization: Quantization? { Quantization(bits: weightBits) }
    public var compressesCache: Bool { cacheBits < 16 }

    /// "fp16", "weights in 4 bits", "weights in 4 bits, cache in 4".
    public var label: String {
        let weights = weightBits < 16 ? "weights in \(weightBits) bits" : ""
        guard compressesCache else { return weights.isEmpty ? "fp16" : weights }
        return weights.isEmpty ? "cache in \(cacheBits) bits" : "\(weights), cache in \(cacheBits)"
    }

    /// All that a model may be kept in.
    public static let all: [CompressionForm] = [nil, Quantization.eightBits, .fourBits].flatMap { weights in
        [false, true].map { CompressionForm(weights, compressesCache: $0) }
    }

    /// The flags that ask for it, as one would type them.
    public var arguments: [String] {
        var arguments: [String] = []
        if weightBits < 16 { arguments.append("--compress-weight") }
        if weightBits == 8 { arguments.append("--weight-bits 8") }
        if compressesCache { arguments.append("--compress-cache") }
        return arguments
    }
}
