import CUDA
import Glibc
import HostRuntime
import Synchronization

/// Keeps weights on their way to the GPU, over layers and over tokens, through a ring of staging slots.
///
/// Weights do not depend on activations, so the order of the blocks is known: a thread asks for one copy after another,
/// again from the first when all are done, and only the ring's slots hold it back. When a copy has arrived, the copying
/// stream sets the slot's flag to 1; the computing stream waits for that, uses the slot, sets the flag to 0 and gives
/// the thread notice. While PCIe is the slower side, every slot but the one in use is free or on its way, and PCIe never
/// waits for the thread.
///
/// The copying stream itself waits for nothing: a call of the driver that waits for all streams, as freeing memory does,
/// would never return otherwise.
final class WeightStreamer: @unchecked Sendable {  // its thread alone uses the stream after `start`
    let blocks: [StreamedBlock]
    let ring: StagingRing

    private let context: Context
    private let copies: Stream
    private let reader: DiskReader?
    private let boundary: MovingBoundary?
    private let clock: CopyClock?
    private let isStopping = Atomic<Bool>(false)
    private let failure = Mutex<ModelError?>(nil)
    private let thread = Mutex<pthread_t?>(nil)
    private let timeline = Mutex<Timeline?>(nil)

    /// - Parameter boundary: of blocks that have `neurons`; there is always something in front of it.
    init(
        _ blocks: [StreamedBlock], ring: StagingRing, reader: DiskReader?, boundary: MovingBoundary? = nil,
        context: Context
    ) throws(CUDAError) {
        self.blocks = blocks
        self.ring = ring
        self.reader = reader
        self.context = context
        self.boundary = boundary
        clock = boundary == nil ? nil : CopyClock(context)
        copies = try Stream(context: context)
        try ring.clearFlags(on: copies)
        try copies.synchronize()
    }

    func flagAddress(ofBlock index: Int) -> UInt64 { ring.flagAddress(ofSlot: blocks[index].slot) }
    func noticeAddress(ofBlock index: Int) -> UInt64 { ring.noticeAddress(ofSlot: blocks[index].slot) }

    /// Begins to fill the ring. The thread keeps the streamer alive until `stop`.
    func start() {
        reader?.start()
        let running = startThread { [self] in
            do {
                try context.makeCurrent()
                try run()
            } catch {
                failure.withLock { $0 = ModelError(loading: error) }
            }
        }
        thread.withLock { $0 = running }
    }

    func record(in timeline: Timeline) {
        self.timeline.withLock { $0 = timeline }
        reader?.record(in: timeline)
    }

    /// Throws what went wrong on the streaming thread.
    func check() throws(ModelError) {
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// The bytes that a pass copies.
    func byteCount(upTo boundary: Int) -> Int {
        blocks.reduce(0) { $0 + $1.byteCount(upTo: boundary) }
    }

    /// Bytes a second of the copies that have ended since this was asked last; nil where none have, or the boundary does
    /// not move.
    func takeUploadRate() -> Double? { clock?.takeRate() }

    /// Ends the thread and waits for the last copy: after it nothing reads the blocks' memory any more.
    func stop() {
        isStopping.store(true, ordering: .relaxed)
        reader?.stop()
        let running = thread.withLock { running in
            defer { running = nil }
            return running
        }
        if let running { pthread_join(running, nil) }
        try? context.makeCurrent()
        try? copies.synchronize()
    }

    private func run() throws {
        var index = 0
        var pass = 1
        // Settled as late as can be, when the first block that depends on it has its slot.
        var settled: Int?
        while true {
            let block = blocks[index]
            let isEmpty = settled.map { block.byteCount(upTo: $0) == 0 } ?? false
            if !isEmpty {
                guard ring.notice(ofSlot: block.slot).take(unless: isStopping) else { return }
                if block.neurons != nil && settled == nil { settled = boundary!.settle(pass: pass) }
                guard try send(block, upTo: settled ?? 0) else { return }
            }
            index += 1
            if index == blocks.count {
                index = 0
                pass += 1
                settled = nil
            }
        }
    }

    /// Asks for a block's copy into its slot.
    ///
    /// - Returns: false where the reader has been stopped.
    private func send(_ block: StreamedBlock, upTo boundary: Int) throws -> Bool {
        var bytes: UnsafeRawBufferPointer?
        if case .disk = block.source {
            bytes = try reader?.nextBuffer()
            if bytes == nil { return false }
        }
        func copyBlock() throws(CUDAError) {
            if let clock {
                try clock.time(block.byteCount(upTo: boundary), on: copies) { () throws(CUDAError) in
                    try copy(block, from: bytes, upTo: boundary)
                }
            } else {
                try copy(block, from: bytes, upTo: boundary)
            }
        }
        if let timeline = timeline.withLock({ $0 }) {
            try timeline.record(.copy, "copy to the GPU", on: copies, copyBlock)
        } else {
            try copyBlock()
        }
        try copies.write(1, to: ring.flagAddress(ofSlot: block.slot))
        return true
    }

    private func copy(_ block: StreamedBlock, from read: UnsafeRawBufferPointer?, upTo boundary: Int)
        throws(CUDAError)
    {
        var address = ring.address(ofSlot: block.slot)
        switch block.source {
        case .host(let runs):
            for run in runs {
                // What is left out keeps its place, so that the next run stands where it always does.
                let count = block.neuronCount(upTo: boundary).map { run.count / $0.all * $0.streamed }
                try copies.upload(run.baseAddress!, to: address, byteCount: count ?? run.count)
                address += UInt64(run.count)
            }
        case .disk:
            try copies.upload(read!.baseAddress!, to: address, byteCount: block.byteCount)
            try reader!.giveBack(on: copies)
        }
    }
}

/// How fast copies are while they are on their way, whatever lies between them.
private final class CopyClock: Sendable {
    private let context: Context
    private let state = Mutex(State())

    private struct State {
        var underway: [Copy] = []
        var spare: [Copy] = []
        var byteCount = 0
        var seconds = 0.0
    }

    private struct Copy {
        var byteCount: Int
        let start, end: Event
    }

    init(_ context: Context) { self.context = context }

    /// Times what `body` puts into the stream; asked for by one thread, in the stream's order.
    func time(_ byteCount: Int, on stream: Stream, _ body: () throws(CUDAError) -> Void) throws(CUDAError) {
        var copy: Copy
        if let spare = state.withLock({ $0.spare.popLast() }) {
            copy = spare
        } else {
            copy = Copy(
                byteCount: 0, start: try Event(context: context, isTimed: true),
                end: try Event(context: context, isTimed: true))
        }
        copy.byteCount = byteCount
        try copy.start.record(on: stream)
        try body()
        try copy.end.record(on: stream)
        state.withLock { $0.underway.append(copy) }
        collect()
    }

    func takeRate() -> Double? {
        collect()
        return state.withLock { state in
            defer { (state.byteCount, state.seconds) = (0, 0) }
            return state.seconds > 0 ? Double(state.byteCount) / state.seconds : nil
        }
    }

    private func collect() {
        state.withLock { state in
            while let copy = state.underway.first, (try? copy.end.isComplete) == true {
                state.underway.removeFirst()
                if let milliseconds = try? copy.end.elapsedMilliseconds(since: copy.start) {
                    state.byteCount += copy.byteCount
                    state.seconds += milliseconds / 1e3
                }
                state.spare.append(copy)
            }
        }
    }
}
