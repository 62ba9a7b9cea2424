import CUDA
import Glibc
import SystemShims

/// Heads, neurons or rows of the token table that the CPU computes together in decode steps: what of them lies in CPU
/// memory, or one block of the offload file.
struct CPUPiece: Sendable {
    enum Source: Sendable {
        case memory
        /// The block's place in the order in which a pass takes them. It holds the matrices of the range, one behind the
        /// other as in a staging slot, then the bias of queries, keys and values or of fc1, fp32, so many bytes from its
        /// begin; nil where there is none.
        case disk(block: Int, biasOffset: Int?)
    }

    var range: Range<Int>
    var source: Source
}

/// The weights on disk that the CPU computes with in decode steps.
///
/// Weights do not depend on activations: a reader brings one block after another, over layers and over tokens, in an order
/// that is the same in every pass. In a decode step the CPU's threads compute with a block in the buffer it was read
/// to; in prefill, where the GPU computes everything, the `WeightFetcher` copies it from there. Either way every pass takes
/// every block once, so that nothing that was read ahead is ever wrong.
final class CPUDiskWeights: @unchecked Sendable {  // led by the lane's thread; `address` is safe for all
    /// By layer, in the order of the file.
    let attention: [[CPUPiece]]
    let mlp: [[CPUPiece]]
    let logits: [CPUPiece]
    private let reader: DiskReader
    private let blockCount: Int
    /// Blocks that were taken, in all passes.
    private var taken = 0
    /// Those before this step.
    private var takenBefore = 0

    /// The pieces that were found while the weights were loaded, and their blocks.
    struct Contents {
        var attention: [[CPUPiece]] = []
        var mlp: [[CPUPiece]] = []
        var logits: [CPUPiece] = []
        var blocks: [DiskReader.Block] = []
    }

    init(_ contents: Contents, file: OffloadFile, context: Context) throws(CUDAError) {
        attention = contents.attention
        mlp = contents.mlp
        logits = contents.logits
        blockCount = contents.blocks.count
        reader = try DiskReader(contents.blocks, file: file, context: context)
    }

    /// The bytes of a block, at most: those of a staging slot, and a bias.
    static func mostBlockByteCount(_ configuration: OPTConfiguration) -> Int {
        let biasCount = max(3 * configuration.hiddenSize, configuration.feedForwardSize)
        return OffloadFile.aligned(GPUWeights.slotByteCount(configuration.shape) + biasCount * 4)
    }

    func start() { reader.start() }
    func stop() { reader.stop() }
    func record(in timeline: Timeline) { reader.record(in: timeline) }

    /// Throws what went wrong on the reader's threads.
    func check() throws(ModelError) {
        if let error = reader.error { throw error }
    }

    // MARK: Decode steps

    /// Before a step.
    func begin() {
        precondition(
            taken % blockCount == 0,
            "CPUDiskWeights: a pass took \(taken % blockCount) of \(blockCount) blocks")
        takenBefore = taken
    }

    /// Where a block of this step lies, by its place in the order; nil until it is there. Any thread may ask.
    func address(ofBlock index: Int) -> UnsafeRawPointer? { reader.address(ofBlock: takenBefore + index) }

    /// Gives the next block's buffer back, which all threads have computed with.
    func giveBack() {
        taken += 1
        reader.giveBackNext()
    }

    // MARK: Prefill

    /// Where the next block lies, as soon as it is there; nil where the disk has failed.
    func next() -> UnsafeRawPointer? {
        var polls = 0
        let start = ContinuousClock.now
        while true {
            if let address = reader.address(ofBlock: taken) { return address }
            polls += 1
            if polls < Self.pollsBeforeSleep {
                tandem_spin_hint()
                continue
            }
            usleep(20)
            if reader.error != nil { return nil }
            if start.duration(to: .now) > .seconds(GPULane.timeoutSeconds) {
                reader.fail(
                    ModelError(
                        .offload,
                        "a block of weights was not read from disk within \(Int(GPULane.timeoutSeconds)) s; use a faster disk"
                    ))
            }
        }
    }

    /// Gives the next block's buffer back once `stream` has come this far.
    func giveBack(on stream: Stream) throws(CUDAError) {
        taken += 1
        try reader.giveBackNext(on: stream)
    }

    /// Some 20 µs.
    private static let pollsBeforeSleep = 500
}
