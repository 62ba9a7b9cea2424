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
    private let isStopping = Atomic<Bool>(false)
    private let failure = Mutex<ModelError?>(nil)
    private let thread = Mutex<pthread_t?>(nil)
    private let timeline = Mutex<Timeline?>(nil)

    init(_ blocks: [StreamedBlock], ring: StagingRing, reader: DiskReader?, context: Context)
        throws(CUDAError)
    {
        self.blocks = blocks
        self.ring = ring
        self.reader = reader
        self.context = context
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
        while ring.notice(ofSlot: blocks[index].slot).take(unless: isStopping) {
            let block = blocks[index]
            var bytes: UnsafeRawBufferPointer?
            if case .disk = block.source {
                bytes = try reader?.nextBuffer()
                if bytes == nil { return }
            }
            if let timeline = timeline.withLock({ $0 }) {
                try timeline.record(.copy, "copy to the GPU", on: copies) { () throws(CUDAError) in
                    try copy(block, from: bytes)
                }
            } else {
                try copy(block, from: bytes)
            }
            try copies.write(1, to: ring.flagAddress(ofSlot: block.slot))
            index = index + 1 == blocks.count ? 0 : index + 1
        }
    }

    private func copy(_ block: StreamedBlock, from read: UnsafeRawBufferPointer?) throws(CUDAError) {
        var address = ring.address(ofSlot: block.slot)
        switch block.source {
        case .host(let runs):
            for run in runs {
                try copies.upload(run.baseAddress!, to: address, byteCount: run.count)
                address += UInt64(run.count)
            }
        case .disk:
            try copies.upload(read!.baseAddress!, to: address, byteCount: block.byteCount)
            try reader!.giveBack(on: copies)
        }
    }
}
