/// A range of a layer's heads as the GPU lane computes it: queries, keys and values, attention, output projection.
///
/// Addresses are of GPU memory, a staging slot's where the piece is not resident.
struct AttentionPiece: Sendable {
    var heads: Range<Int>
    /// [3, n, hidden]
    var qkv: UInt64
    /// [n, hidden]
    var output: UInt64
    /// [3, n] in fp32, or 0.
    var qkvBias: UInt64
    var source: PieceSource
}

/// A range of a layer's neurons as the GPU lane computes it: fc1, activation, fc2.
struct MLPPiece: Sendable {
    var neurons: Range<Int>
    /// [n, hidden]
    var fc1: UInt64
    /// [n, hidden]
    var fc2: UInt64
    var source: PieceSource
    /// In every pass only the neurons in front of the `MovingBoundary` are computed in this way, or only those behind it.
    var isDivided = false
}

/// A range of the token table's rows, of which the GPU lane makes logits.
struct LogitsPiece: Sendable {
    var rows: Range<Int>
    /// [n, embedding]
    var table: UInt64
    var source: PieceSource
}

/// How a piece's weights come to where the GPU reads them.
enum PieceSource: Sendable, Hashable {
    /// They lie there.
    case resident
    /// Through the `WeightStreamer`; the number is the piece's place in the order of the stream.
    case streamed(Int)
    /// Through the `WeightFetcher`, in prefill alone: the CPU computes with them in decode steps. The first items of the
    /// block may be left out.
    case fetched(Int, skipping: Int = 0)
}

/// One layer of the GPU lane: its pieces in the order in which they are computed, and the vectors, which are always in
/// GPU memory. Addresses are 0 where the model has no such vector.
struct GPULayer: Sendable {
    /// What the GPU computes in every step.
    var attention: [AttentionPiece]
    var mlp: [MLPPiece]
    /// What it computes in prefill only.
    var fetchedAttention: [AttentionPiece]
    var fetchedMLP: [MLPPiece]
    var attentionNorm: GPUNorm
    var outputBias: UInt64
    var mlpNorm: GPUNorm
    var fc1Bias: UInt64
    var fc2Bias: UInt64

    /// The part of fc1's bias for a piece's neurons, or 0.
    func fc1Bias(of piece: MLPPiece) -> UInt64 {
        fc1Bias == 0 ? 0 : fc1Bias + UInt64(piece.neurons.lowerBound * 4)
    }
}

struct GPUNorm: Sendable {
    var weight: UInt64
    var bias: UInt64
}

/// Bytes that are streamed to a staging slot for one piece.
struct StreamedBlock: @unchecked Sendable {  // the memory is the weights', read-only once loaded
    enum Source {
        /// Runs of host memory, one behind the other in the slot.
        case host([UnsafeRawBufferPointer])
        /// The next block of the offload file, in the reader's order.
        case disk
    }

    var source: Source
    var byteCount: Int
    var slot: Int
    /// The neurons of a block of which only those in front of the `MovingBoundary` are streamed; nil where all of it is.
    var neurons: Range<Int>?

    /// The neurons that are streamed, of so many in the block; nil where all of it is.
    func neuronCount(upTo boundary: Int) -> (streamed: Int, all: Int)? {
        neurons.map { (min(max(0, boundary - $0.lowerBound), $0.count), $0.count) }
    }

    func byteCount(upTo boundary: Int) -> Int {
        neuronCount(upTo: boundary).map { byteCount / $0.all * $0.streamed } ?? byteCount
    }
}
