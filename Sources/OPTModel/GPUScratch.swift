import CUDA
import CUDAKernelImage

/// The GPU lane's activations, made once for the most rows of a step. Shapes are [rows, columns].
struct GPUScratch: ~Copyable {
    private let buffer: DeviceBuffer
    /// fp32 [rows, hidden]: the residual stream.
    let residual: UInt64
    /// fp32 [rows, hidden]: what the pieces of a block are added to. The residual stream itself, but where that comes from
    /// another process: zeros then, in front of a block.
    let sum: UInt64
    /// fp16 [max(hidden, embedding)], zeros: the row of a token that another process has.
    let zeroRow: UInt64
    /// fp16 [rows, hidden]: a block's input, and the last rows before the logits.
    let normalized: UInt64
    /// fp16 [rows, 3, heads · head dimension]
    let qkv: UInt64
    /// fp16 [rows, heads · head dimension]
    let attended: UInt64
    /// fp16 [rows, neurons]
    let neurons: UInt64
    /// fp16 [rows, embedding]: rows at the narrow end of a model with embedding projections.
    let narrow: UInt64
    /// fp32 [logits rows, vocabulary]
    let logits: UInt64
    /// fp32 [splits, few rows, hidden]: `linear_transposed`'s.
    let partials: UInt64
    /// uint32, zero between kernels: a tile's each.
    let counters: UInt64
    /// A `StepBlock`'s input, copied here when a step starts.
    let step: UInt64

    static let counterCount = 65536

    /// - Parameters:
    ///   - hasOwnSum: blocks are not added to the residual stream.
    ///   - logitsWidth: the columns of a row of logits; nil for the vocabulary.
    init(
        _ configuration: OPTConfiguration, rowCapacity: Int, logitsCapacity: Int, stepByteCount: Int,
        hasOwnSum: Bool = false, logitsWidth: Int? = nil, context: Context
    ) throws(CUDAError) {
        var layout = DeviceLayout()
        let hidden = configuration.hiddenSize
        let residual = layout.add(rowCapacity * hidden * 4)
        let sum = hasOwnSum ? layout.add(rowCapacity * hidden * 4) : residual
        let zeroRow = layout.add(max(hidden, configuration.embeddingSize) * 2)
        let normalized = layout.add(max(rowCapacity, logitsCapacity) * hidden * 2)
        let qkv = layout.add(rowCapacity * 3 * hidden * 2)
        let attended = layout.add(rowCapacity * hidden * 2)
        let neurons = layout.add(rowCapacity * configuration.feedForwardSize * 2)
        let narrow = layout.add(max(rowCapacity, logitsCapacity) * configuration.embeddingSize * 2)
        let logits = layout.add(logitsCapacity * (logitsWidth ?? configuration.vocabularySize) * 4)
        let partials = layout.add(GPUKernels.mostSplits * Int(TANDEM_GPU_FEW_ROWS) * hidden * 4)
        let counters = layout.add(Self.counterCount * 4)
        let step = layout.add(stepByteCount)
        buffer = try DeviceBuffer(byteCount: layout.byteCount, context: context)
        let base = buffer.address
        self.residual = base + residual
        self.sum = base + sum
        self.zeroRow = base + zeroRow
        self.normalized = base + normalized
        self.qkv = base + qkv
        self.attended = base + attended
        self.neurons = base + neurons
        self.narrow = base + narrow
        self.logits = base + logits
        self.partials = base + partials
        self.counters = base + counters
        self.step = base + step
    }

    /// What the scratch takes, in bytes.
    static func byteCount(_ configuration: OPTConfiguration, rowCapacity: Int, logitsCapacity: Int) -> Int {
        let hidden = configuration.hiddenSize
        let perRow =
            hidden * 4 + hidden * 2 * 5 + configuration.feedForwardSize * 2 + configuration.embeddingSize * 2
        return rowCapacity * perRow + logitsCapacity * configuration.vocabularySize * 4
            + GPUKernels.mostSplits * Int(TANDEM_GPU_FEW_ROWS) * hidden * 4 + counterCount * 4
    }
}

/// Lays ranges of GPU memory out one behind the other, aligned for every access.
struct DeviceLayout {
    private(set) var byteCount = 0

    mutating func add(_ count: Int) -> UInt64 {
        let offset = byteCount
        byteCount += divideUp(count, 256) * 256
        return UInt64(offset)
    }
}
