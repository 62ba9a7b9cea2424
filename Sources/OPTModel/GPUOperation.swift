/// An operation of the GPU lane, and how far its results may be from the scalar reference.
public enum GPUOperation: String, Sendable, Hashable, Codable, CaseIterable {
    case embed
    case layerNorm = "layer norm"
    case layerNormKept = "layer norm, kept"
    case linear
    case linearToFloat = "linear, fp32 result"
    case linearNormalized = "linear with layer norm"
    case linearTransposed = "linear transposed"
    case linearQuantized = "linear quantized"
    case linearQuantizedToFloat = "linear quantized, fp32 result"
    case linearQuantizedNormalized = "linear quantized with layer norm"
    case linearQuantizedByInputs = "linear quantized by inputs"
    case linearBoxes = "linear by boxes"
    case linearBoxesToFloat = "linear by boxes, fp32 result"
    case linearBoxesTransposed = "linear transposed by boxes"
    case layerNormParts = "layer norm of parts"
    case gemm
    case gemmTransposed = "gemm transposed"
    case gemmToResidual = "gemm to residual"
    case gemmTransposedToResidual = "gemm transposed to residual"
    case gemmQuantized = "gemm quantized"
    case gemmQuantizedToResidual = "gemm quantized to residual"
    case storeKeysValues = "store keys and values"
    case storeKeysValuesQuantized = "store keys and values in 4 bits"
    case attentionDecode = "attention decode"
    case attentionDecodeQuantized = "attention decode over 4 bits"
    case attentionRows = "attention decode, many rows"
    case attentionRowsQuantized = "attention decode over 4 bits, many rows"
    case attentionPrefill = "attention prefill"
    case attentionPrefillQuantized = "attention prefill over 4 bits"
    case sample
    case signal
    case wait
    case publish
    case awaitAnswer = "await"
    case read

    /// The most that ‖result − reference‖ may be of ‖reference‖.
    public var tolerance: Double {
        switch self {
        // What is copied, counted or chosen is right or wrong.
        case .storeKeysValues, .storeKeysValuesQuantized, .sample, .signal, .wait, .publish, .awaitAnswer,
            .read:
            0
        case .embed: 1e-7
        case .layerNormKept: 1e-5
        // Sums in fp32; the tensor cores cut off where others round.
        case .linearToFloat, .linearTransposed, .linearBoxesToFloat, .linearBoxesTransposed, .gemmToResidual,
            .gemmTransposedToResidual:
            5e-5
        // Results in fp16, which rounding alone moves by about 2e-4.
        case .layerNorm, .layerNormParts, .linear, .linearNormalized, .linearBoxes, .gemm, .gemmTransposed:
            5e-4
        // Weights that kernels round to fp16, by about 2e-4, and some results too.
        case .linearQuantized, .linearQuantizedToFloat, .linearQuantizedNormalized, .linearQuantizedByInputs,
            .gemmQuantized, .gemmQuantizedToResidual:
            6e-4
        case .attentionDecode, .attentionDecodeQuantized, .attentionRows, .attentionRowsQuantized: 1e-3
        // Softmax's weights are fp16, too.
        case .attentionPrefill, .attentionPrefillQuantized: 1.5e-3
        }
    }
}

/// What a check of one operation at one size found.
public struct GPUOperationResult: Sendable, Hashable, Codable {
    public var operation: GPUOperation
    public var sizes: String
    /// ‖result − reference‖ / ‖reference‖; nil where the operation did not end, or a result is no number.
    public var error: Double?
    public var tolerance: Double
    public var passed: Bool
    /// Of one run; nil where it did not end.
    public var microseconds: Double?
    /// What else is wrong, in words.
    public var fault: String?

    /// "linear, 9 rows, 1000 -> 4096: error 0.012, 0.0005 allowed".
    public var sentence: String {
        var text = "\(operation.rawValue), \(sizes): "
        if let error { text += "error \(error), \(tolerance) allowed" }
        if let fault { text += (error == nil ? "" : "; ") + fault }
        return text
    }
}

/// How far a result is from its reference.
struct Deviation {
    private var squaredDifference = 0.0
    private var squaredReference = 0.0
    /// What is wrong beside the figures.
    private(set) var fault: String?

    mutating func add(_ found: Double, _ expected: Double) {
        squaredDifference += (found - expected) * (found - expected)
        squaredReference += expected * expected
    }

    /// Notes something wrong, unless something was before.
    mutating func note(_ text: String) { fault = fault ?? text }

    mutating func note(_ text: String, unless holds: Bool) {
        if !holds { note(text) }
    }

    /// nil where a result is no number.
    var error: Double? {
        if squaredDifference == 0 { return 0 }
        let error = (squaredDifference / squaredReference).squareRoot()
        return error.isFinite ? error : nil
    }
}
