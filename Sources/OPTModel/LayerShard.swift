import HostRuntime

/// A range of one layer's heads and neurons in CPU memory, laid out so that any part of the range is contiguous.
///
/// Every matrix is stored by head or neuron: the query, key and value projections and fc1 as they are, the output
/// projection and fc2 turned over. A lane, a thread or a transfer then takes its heads or neurons as one run of
/// memory, and each block ends in one sum.
public final class LayerShard: @unchecked Sendable {  // owns its buffer, which is read-only once it is loaded
    /// The heads, of the whole layer's, that this shard holds.
    public let heads: Range<Int>
    /// The neurons of the MLP that this shard holds.
    public let neurons: Range<Int>
    public let attention: AttentionWeights
    public let mlp: MLPWeights

    let buffer: HostBuffer
    let slots: [TensorSlot]

    init(_ tensors: OPTTensors, layer: Int, heads: Range<Int>, neurons: Range<Int>) throws(HostMemoryError) {
        let layout = LayerShardLayout(tensors, layer: layer, heads: heads, neurons: neurons)
        buffer = try HostBuffer(byteCount: layout.slots.byteCount)
        slots = layout.slots.slots
        self.heads = heads
        self.neurons = neurons
        let matrices = layout.matrices
        let vectors = layout.vectors
        let configuration = tensors.configuration
        let base = UnsafeRawPointer(buffer.baseAddress)
        func matrix(_ offset: Int, _ form: MatrixForm) -> LayerMatrix {
            LayerMatrix(base: base + offset, form: form)
        }
        attention = AttentionWeights(
            norm: LayerNormWeights(
                weight: buffer.vector(at: vectors.attentionNormWeight),
                bias: buffer.vector(at: vectors.attentionNormBias)),
            qkv: matrix(matrices.qkv, configuration.qkvForm), qkvBias: buffer.vector(at: layout.qkvBias),
            output: matrix(matrices.output, configuration.outputForm),
            outputBias: buffer.vector(at: vectors.outputBias))
        mlp = MLPWeights(
            norm: LayerNormWeights(
                weight: buffer.vector(at: vectors.mlpNormWeight),
                bias: buffer.vector(at: vectors.mlpNormBias)),
            fc1: matrix(matrices.fc1, configuration.fc1Form), fc1Bias: buffer.vector(at: vectors.fc1Bias),
            fc2: matrix(matrices.fc2, configuration.fc2Form), fc2Bias: buffer.vector(at: vectors.fc2Bias))
    }

    /// The bytes that such a shard takes.
    static func byteCount(_ tensors: OPTTensors, layer: Int, heads: Range<Int>, neurons: Range<Int>) -> Int {
        LayerShardLayout(tensors, layer: layer, heads: heads, neurons: neurons).slots.byteCount
    }
}

/// A layer norm's scale and shift, [hidden] in fp32; nil stands for 1 and 0.
public struct LayerNormWeights: @unchecked Sendable {  // lent by the shard that owns it
    public let weight: UnsafePointer<Float>?
    public let bias: UnsafePointer<Float>?
}

/// The attention block of a shard with n = heads · head dimension rows.
public struct AttentionWeights: @unchecked Sendable {  // lent by the shard that owns it
    public let norm: LayerNormWeights
    /// [3, n, hidden]: queries, keys, values.
    let qkv: LayerMatrix
    /// [3, n]; keys that are cached in 4 bits go without theirs (`SlotLayout.qkvBias`).
    public let qkvBias: UnsafePointer<Float>?
    /// [n, hidden], turned over.
    let output: LayerMatrix
    /// [hidden], the whole layer's: added once to the block's sum.
    public let outputBias: UnsafePointer<Float>?
}

/// The MLP block of a shard with n neurons.
public struct MLPWeights: @unchecked Sendable {  // lent by the shard that owns it
    public let norm: LayerNormWeights
    /// [n, hidden]
    let fc1: LayerMatrix
    /// [n]
    public let fc1Bias: UnsafePointer<Float>?
    /// [n, hidden], turned over.
    let fc2: LayerMatrix
    /// [hidden], the whole layer's: added once to the block's sum.
    public let fc2Bias: UnsafePointer<Float>?
}
