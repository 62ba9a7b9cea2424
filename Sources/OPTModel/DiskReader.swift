import CUDA
import Glibc
import HostRuntime
import Synchronization

/// Reads the blocks of an offload file ahead of their use, again and again in the same order, into pinned buffers.
///
/// Several threads read pieces of a block side by side, as disks serve several requests faster than one. Whoever takes
/// the blocks copies them to the GPU, or uses them where they are.
final class DiskReader: @unchecked Sendable {  // what the threads share is guarded by `monitor`
    struct Block: Sendable {
        var fileOffset: Int
        var byteCount: Int
    }

    private let blocks: [Block]
    private let file: OffloadFile
    private let buffers: [ReadBuffer]
    private let context: Context
    private let monitor = Monitor()
    private var threads: [pthread_t] = []

    // Counted over all rounds: block n of them is blocks[n % blocks.count] and goes to buffer n % buffers.count.
    private var asked = 0  // blocks whose pieces have all been handed out
    private var askedByteCount = 0  // of the block after them
    private var unreadByteCounts: [Int]
    /// Blocks that are there, all before them too; written with `monitor` held.
    private let readCount = Atomic<Int>(0)
    private var taken = 0
    private var returned = 0
    private var isStopping = false
    private var failure: ModelError?
    private var timeline: Timeline?

    private static let pieceByteCount = 16 << 20
    static let threadCount = 4
    static let bufferCount = 3

    init(_ blocks: [Block], file: OffloadFile, context: Context) throws(CUDAError) {
        self.blocks = blocks
        self.file = file
        self.context = context
        let largest = blocks.map(\.byteCount).max() ?? 0
        var buffers: [ReadBuffer] = []
        for _ in 0..<Self.bufferCount { buffers.append(try ReadBuffer(byteCount: largest, context: context)) }
        self.buffers = buffers
        unreadByteCounts = Array(repeating: 0, count: Self.bufferCount)
    }

    /// Begins to read. The threads keep the reader alive until `stop`.
    func start() {
        for _ in 0..<Self.threadCount {
            threads.append(startThread { [self] in readPieces() })
        }
    }

    func record(in timeline: Timeline) {
        monitor.withLock { self.timeline = timeline }
    }

    /// Ends the threads; what is being read is read to its end.
    func stop() {
        monitor.withLock {
            isStopping = true
            monitor.broadcast()
        }
        for thread in threads { pthread_join(thread, nil) }
        threads = []
    }

    /// The next block's bytes, as soon as they are there; nil once the reader was stopped.
    func nextBuffer() throws(ModelError) -> UnsafeRawBufferPointer? {
        try monitor.withLock { () throws(ModelError) in
            let index = taken % buffers.count
            while !isStopping && failure == nil && !(asked > taken && unreadByteCounts[index] == 0) {
                monitor.wait()
            }
            if let failure { throw failure }
            if isStopping { return nil }
            let byteCount = blocks[taken % blocks.count].byteCount
            taken += 1
            return UnsafeRawBufferPointer(start: buffers[index].memory.baseAddress, count: byteCount)
        }
    }

    /// Gives the buffer that was taken last back, to be read into once `stream` has come this far.
    func giveBack(on stream: Stream) throws(CUDAError) {
        try buffers[(taken - 1) % buffers.count].isCopied.record(on: stream)
        monitor.withLock {
            returned += 1
            monitor.broadcast()
        }
    }

    /// Where a block lies, of a number that counts over all rounds; nil until it is there. Any thread may ask, of blocks
    /// that were not given back.
    func address(ofBlock number: Int) -> UnsafeRawPointer? {
        if readCount.load(ordering: .acquiring) <= number { return nil }
        return UnsafeRawPointer(buffers[number % buffers.count].memory.baseAddress)
    }

    /// Takes the next block, which is there, and gives its buffer back: it has been used in place.
    func giveBackNext() {
        monitor.withLock {
            taken += 1
            returned += 1
            monitor.broadcast()
        }
    }

    /// The same, to be read into once `stream` has come this far.
    func giveBackNext(on stream: Stream) throws(CUDAError) {
        monitor.withLock { taken += 1 }
        try giveBack(on: stream)
    }

    /// What went wrong first.
    var error: ModelError? { monitor.withLock { failure } }

    private struct Piece {
        var fileOffset: Int
        var bytes: UnsafeMutableRawBufferPointer
        var buffer: Int
    }

    private func readPieces() {
        do {
            try context.makeCurrent()
        } catch {
            fail(ModelError(error))
            return
        }
        while let piece = nextPiece() {
            let start = ContinuousClock.now
            if let error = file.read(into: piece.bytes, at: piece.fileOffset) {
                fail(error)
                return
            }
            monitor.withLock {
                timeline?.add(.disk, "read", from: start, to: .now)
                unreadByteCounts[piece.buffer] -= piece.bytes.count
                if unreadByteCounts[piece.buffer] == 0 { noteRead() }
            }
        }
    }

    /// Counts the blocks that are there now; within `monitor.withLock`.
    private func noteRead() {
        var count = readCount.load(ordering: .relaxed)
        while count < asked && unreadByteCounts[count % buffers.count] == 0 { count += 1 }
        readCount.store(count, ordering: .releasing)
        monitor.broadcast()
    }

    /// Ends reading; the first reason stays.
    func fail(_ error: ModelError) {
        monitor.withLock {
            failure = failure ?? error
            monitor.broadcast()
        }
    }

    private func nextPiece() -> Piece? { monitor.withLock { pieceInTurn() } }

    private func pieceInTurn() -> Piece? {
        while !isStopping && failure == nil && askedByteCount == 0 && asked >= returned + buffers.count {
            monitor.wait()
        }
        if isStopping || failure != nil { return nil }
        let block = blocks[asked % blocks.count]
        let index = asked % buffers.count
        if askedByteCount == 0 {
            // The buffer's last copy may be on its way still; it ends within milliseconds.
            if asked >= buffers.count { try? buffers[index].isCopied.synchronize() }
            unreadByteCounts[index] = block.byteCount
        }
        let count = min(Self.pieceByteCount, block.byteCount - askedByteCount)
        let piece = Piece(
            fileOffset: block.fileOffset + askedByteCount,
            bytes: UnsafeMutableRawBufferPointer(
                start: buffers[index].memory.baseAddress + askedByteCount, count: count),
            buffer: index)
        askedByteCount += count
        if askedByteCount == block.byteCount {
            asked += 1
            askedByteCount = 0
        }
        return piece
    }
}

/// A pinned buffer that a block is read into, and when the GPU has taken it over.
private final class ReadBuffer: Sendable {
    let memory: PinnedBuffer
    let isCopied: Event

    init(byteCount: Int, context: Context) throws(CUDAError) {
        do {
            memory = try PinnedBuffer(try HostBuffer(byteCount: byteCount), context: context)
        } catch let error as HostMemoryError {
            throw CUDAError(.outOfMemory, action: "making a read buffer", reason: error.description)
        } catch {
            throw error as! CUDAError
        }
        isCopied = try Event(context: context, waitsAsleep: true)
    }
}
