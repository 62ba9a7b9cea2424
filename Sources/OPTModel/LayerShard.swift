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
        let base = buffer.baseAddress
        func half(_ offset: Int) -> UnsafePointer<UInt16> {
            UnsafePointer((base + offset).assumingMemoryBound(to: UInt16.self))
        }
        func float(_ offset: Int?) -> UnsafePointer<Float>? {
            offset.map { UnsafePointer((base + $0).assumingMemoryBound(to: Float.self)) }
        }
        attention = AttentionWeights(
            norm: LayerNormWeights(
                weight: float(layout.attentionNormWeight), bias: float(layout.attentionNormBias)),
            qkv: half(layout.qkv), qkvBias: float(layout.qkvBias),
            output: half(layout.output), outputBias: float(layout.outputBias))
        mlp = MLPWeights(
            norm: LayerNormWeights(weight: float(layout.mlpNormWeight), bias: float(layout.mlpNormBias)),
            fc1: half(layout.fc1), fc1Bias: float(layout.fc1Bias),
            fc2: half(layout.fc2), fc2Bias: float(layout.fc2Bias))
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
    public let qkv: UnsafePointer<UInt16>
    /// [3, n]
    public let qkvBias: UnsafePointer<Float>?
    /// [n, hidden], turned over.
    public let output: UnsafePointer<UInt16>
    /// [hidden], the whole layer's: added once to the block's sum.
    public let outputBias: UnsafePointer<Float>?
}

/// The MLP block of a shard with n neurons.
public struct MLPWeights: @unchecked Sendable {  // lent by the shard that owns it
    public let norm: LayerNormWeights
    /// [n, hidden]
    public let fc1: UnsafePointer<UInt16>
    /// [n]
    public let fc1Bias: UnsafePointer<Float>?
    /// [n, hidden], turned over.
    public let fc2: UnsafePointer<UInt16>
    /// [hidden], the whole layer's: added once to the block's sum.
    public let fc2Bias: UnsafePointer<Float>?
}
