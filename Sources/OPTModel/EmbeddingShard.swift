import HostRuntime

/// The tables at both ends of the model, in CPU memory: the token embedding, which is the output embedding too and
/// is kept once, the positions, the projections between them (350m), and the final layer norm.
public final class EmbeddingShard: @unchecked Sendable {  // owns its buffer, read-only once loaded
    /// [vocabulary, embedding]
    public let tokens: UnsafePointer<UInt16>
    /// [positions + 2, hidden]
    public let positions: UnsafePointer<UInt16>
    /// [hidden, embedding]
    public let projectIn: UnsafePointer<UInt16>?
    /// [embedding, hidden]
    public let projectOut: UnsafePointer<UInt16>?
    public let finalNorm: LayerNormWeights

    let buffer: HostBuffer
    let slots: [TensorSlot]

    init(_ tensors: OPTTensors) throws(HostMemoryError) {
        let layout = Layout(tensors)
        buffer = try HostBuffer(byteCount: layout.slots.byteCount)
        slots = layout.slots.slots
        tokens = buffer.matrix(at: layout.tokens)
        positions = buffer.matrix(at: layout.positions)
        projectIn = buffer.matrix(at: layout.projectIn)
        projectOut = buffer.matrix(at: layout.projectOut)
        finalNorm = LayerNormWeights(
            weight: buffer.vector(at: layout.normWeight), bias: buffer.vector(at: layout.normBias))
    }

    static func byteCount(_ tensors: OPTTensors) -> Int {
        Layout(tensors).slots.byteCount
    }

    private struct Layout {
        let slots: SlotLayout
        let tokens, positions: Int
        let projectIn, projectOut, normWeight, normBias: Int?

        init(_ tensors: OPTTensors) {
            var slots = SlotLayout()
            tokens = slots.matrix(tensors.tokenEmbedding)
            positions = slots.matrix(tensors.positionEmbedding)
            projectIn = tensors.projectIn.map { slots.matrix($0) }
            projectOut = tensors.projectOut.map { slots.matrix($0) }
            normWeight = slots.vector(tensors.finalLayerNorm(.weight))
            normBias = slots.vector(tensors.finalLayerNorm(.bias))
            self.slots = slots
        }
    }
}
