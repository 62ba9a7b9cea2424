import CUDA
import Glibc
import HostRuntime
import Placement
import Synchronization
import SystemPackage

/// Keys and values on disk, of some heads of several sequences: a file, and a ring of slots in pinned CPU memory through
/// which one layer after another passes.
///
/// Every step, prefill or decode, visits all layers in order. A visit of a layer is: its keys and values are read into
/// its slot (`DiskKVLayout`); the slot's flag is set to 1; the GPU, which waits for that, stores the step's new keys and
/// values into the slot, lets attention read it in place, and sets the slot's notice, where the processor computes some of
/// the heads in the same way behind its part of the block; the blocks that the new positions changed are written back; then the slot is read full for the next layer that it serves. So a layer is never read
/// before the last step's write of it has ended: both go through the same slot.
///
/// Slots are read ahead over layers and over steps. What the next step needs is guessed to be the last one's sequences;
/// any other is read when the step has begun. Nothing of this waits for the thread that leads the lane.
///
/// Where the disk fails the visits go on, so that the GPU never waits for what does not come; `check` throws what
/// happened, and the cache's contents are lost.
final class DiskKVCache: @unchecked Sendable {  // what the threads share is guarded by `monitor`
    let layout: DiskKVLayout
    let file: OffloadFile
    private let queue: OffloadQueue
    private let memory: PinnedBuffer
    /// For each slot a flag, 1 while the GPU may use it, a notice, and the number of its last visit that was let begin.
    private let words: PinnedBuffer
    private let monitor = Monitor()
    private let isStopping = Atomic<Bool>(false)
    private var watcher: pthread_t?
    private var failure: ModelError?

    /// The steps that have begun; the last one's number.
    private var step = 0
    /// What the last step adds.
    private var batch: [NewPositions] = []
    private var slots: [Slot]

    /// Where the file lies, and how many layers are under way at most.
    struct Options {
        var folder: FilePath
        var slotCount = DiskKVLayout.defaultSlotCount
    }

    /// The positions that a step adds to a sequence; those before them it needs.
    private struct NewPositions {
        var sequence: Int
        var positions: Range<Int>
    }

    /// A slot and its visit, the present or the next one.
    private struct Slot {
        var layer: Int
        var step = 1
        var phase = Phase.full
        /// The positions of each sequence that were read for the visit.
        var readCounts: [Int]
        /// What the GPU adds in the visit.
        var added: [NewPositions] = []
    }

    private enum Phase {
        case reading
        /// What was guessed is there.
        case full
        /// The GPU has it.
        case open
        case writing
    }

    /// Unused ends of lines that are read along with what is in front and behind: for a disk of 3 GB/s and 200,000 requests
    /// a second, a further request takes as long.
    static let joinedGapByteCount = 16 << 10
    /// What is larger is cut, for several threads.
    private static let mostByteCountPerTransfer = 1 << 20
    private static let wordStride = 128

    /// Takes the room in the folder; nothing is read or written before `start`.
    ///
    /// - Throws: a `ModelError` of code `offload` where the folder has no room or cannot be written to.
    init(
        _ shape: ModelShape, headCount: Int, capacities: [Int], options: Options, context: Context
    ) throws {
        layout = DiskKVLayout(
            shape, headCount: headCount, capacities: capacities, slotCount: options.slotCount)
        file = try OffloadFile(in: options.folder, holding: "keys and values")
        try file.reserve(byteCount: layout.fileByteCount)
        queue = OffloadQueue(file)
        memory = try PinnedBuffer(try HostBuffer(byteCount: layout.slotsByteCount), context: context)
        let words = try HostBuffer(byteCount: 3 * layout.slotCount * Self.wordStride)
        memset(words.baseAddress, 0, words.byteCount)
        self.words = try PinnedBuffer(words, context: context)
        slots = (0..<layout.slotCount).map {
            Slot(layer: $0, readCounts: Array(repeating: 0, count: capacities.count))
        }
    }

    /// On disk and in the slots.
    var byteCount: Int { layout.fileByteCount + layout.slotsByteCount }

    /// Where a sequence's first slot begins, for the GPU; the kernels take a slot's number for the layer.
    func address(of sequence: Int) -> UInt64 {
        memory.deviceAddress + UInt64(layout.slotsOffset(sequence: sequence))
    }
    func flagAddress(ofSlot slot: Int) -> UInt64 { words.deviceAddress + UInt64(flagOffset(slot)) }
    func noticeAddress(ofSlot slot: Int) -> UInt64 { words.deviceAddress + UInt64(noticeOffset(slot)) }

    private func flagOffset(_ slot: Int) -> Int { 3 * slot * Self.wordStride }
    private func noticeOffset(_ slot: Int) -> Int { flagOffset(slot) + Self.wordStride }

    /// What the processor's threads see of the slots in a step; a plain value, as they all ask at the same time.
    struct Visits {
        fileprivate let words: UnsafeMutableRawPointer
        fileprivate let slotCount: Int
        fileprivate let first: Int

        func slot(ofLayer layer: Int) -> Int { layer % slotCount }

        /// Whether a layer's keys and values are in its slot, and may be used and added to.
        func isOpen(layer: Int) -> Bool {
            word(ofSlot: slot(ofLayer: layer)).pointee.load(ordering: .acquiring) == first + layer
        }

        fileprivate func open(layer: Int) {
            word(ofSlot: slot(ofLayer: layer)).pointee.store(first + layer, ordering: .releasing)
        }

        private func word(ofSlot slot: Int) -> UnsafeMutablePointer<Atomic<Int>> {
            (words + (3 * slot + 2) * DiskKVCache.wordStride).assumingMemoryBound(to: Atomic<Int>.self)
        }
    }

    /// Of the step that has begun last.
    var visits: Visits { monitor.withLock { presentVisits } }

    /// Steps are counted from 1: no visit has the number 0.
    private var presentVisits: Visits {
        Visits(words: words.baseAddress, slotCount: layout.slotCount, first: step * layout.layerCount)
    }

    /// Where a sequence's first slot begins, for the host.
    func hostPointer(of sequence: Int) -> UnsafeMutableRawPointer {
        memory.baseAddress + layout.slotsOffset(sequence: sequence)
    }

    /// Starts the threads, which keep this alive until `stop`.
    func start() {
        queue.start()
        watcher = startThread { [self] in watch() }
    }

    /// Ends the threads; the contents are lost.
    func stop() {
        monitor.withLock {
            isStopping.store(true, ordering: .relaxed)
            monitor.broadcast()
        }
        if let watcher { pthread_join(watcher, nil) }
        watcher = nil
        queue.stop()
    }

    /// Says what the step that is about to be launched adds. No sequence has two segments.
    func begin(_ batch: StepBatch, timeline: Timeline?) {
        queue.record(in: timeline)
        monitor.withLock {
            step += 1
            self.batch = (0..<batch.segmentCount).map { index in
                let segment = batch.segments[index]
                return NewPositions(
                    sequence: segment.sequence,
                    positions: segment.firstPosition..<segment.firstPosition + segment.rowCount)
            }
            for slot in slots.indices where slots[slot].phase == .full { open(slot) }
            monitor.broadcast()
        }
    }

    /// Throws what went wrong on the threads.
    func check() throws(ModelError) {
        if let error = queue.error ?? monitor.withLock({ failure }) { throw error }
    }

    /// What the disk was asked for, in bytes.
    var transferredByteCounts: (read: Int, written: Int) { queue.byteCounts }

    /// Whether nothing is left to do before the next step begins.
    var isIdle: Bool {
        monitor.withLock { slots.allSatisfy { $0.phase == .full && $0.step == step + 1 } }
    }

    // MARK: Visits; all within `monitor.withLock`

    /// Lets the lanes have a slot that is full, where its step has begun and nothing it needs is missing.
    private func open(_ slot: Int) {
        if slots[slot].step != step { return }
        let missing = batch.filter { slots[slot].readCounts[$0.sequence] < $0.positions.lowerBound }
        guard missing.isEmpty else {
            return read(slot, missing.map { ($0.sequence, $0.positions.lowerBound) })
        }
        slots[slot].phase = .open
        slots[slot].added = batch
        flag(slot).pointee.store(1, ordering: .releasing)
        presentVisits.open(layer: slots[slot].layer)
    }

    private func flag(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        (words.baseAddress + flagOffset(slot)).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Reads the first positions of sequences into a slot.
    private func read(_ slot: Int, _ wanted: [(sequence: Int, count: Int)]) {
        for (sequence, count) in wanted { slots[slot].readCounts[sequence] = count }
        slots[slot].phase = .reading
        let transfers = wanted.flatMap { sequence, count in
            let blocks = layout.blocks(0..<count, sequence: sequence, joiningGapsOf: Self.joinedGapByteCount)
            return self.transfers(.read, blocks, sequence: sequence, slot)
        }
        if transfers.isEmpty {
            endReading(slot)
        } else {
            queue.add(transfers) { [self] in monitor.withLock { endReading(slot) } }
        }
    }

    private func endReading(_ slot: Int) {
        slots[slot].phase = .full
        open(slot)
    }

    /// Writes back what the GPU added to a slot.
    private func write(_ slot: Int) {
        guard slots[slot].phase == .open else {
            // A wait on the GPU that ended too late ends the run; until then nothing is right.
            failure = ModelError(.gpu, "the GPU did not wait for keys and values from disk")
            return
        }
        slots[slot].phase = .writing
        let transfers = slots[slot].added.flatMap { added in
            self.transfers(
                .write, layout.blocks(added.positions, sequence: added.sequence), sequence: added.sequence,
                slot)
        }
        queue.add(transfers) { [self] in monitor.withLock { endWriting(slot) } }
    }

    /// Begins the slot's next visit.
    private func endWriting(_ slot: Int) {
        slots[slot].layer += layout.slotCount
        if slots[slot].layer >= layout.layerCount {
            slots[slot].layer = slot
            slots[slot].step += 1
        }
        for sequence in slots[slot].readCounts.indices { slots[slot].readCounts[sequence] = 0 }
        // Of a step that has not begun, the sequences are a guess.
        let hasBegun = slots[slot].step == step
        read(
            slot,
            batch.map { ($0.sequence, hasBegun ? $0.positions.lowerBound : $0.positions.upperBound) })
    }

    /// Ranges of a sequence's bytes, between a slot and its layer's place in the file.
    private func transfers(
        _ direction: OffloadQueue.Transfer.Direction, _ ranges: [Range<Int>], sequence: Int, _ slot: Int
    ) -> [OffloadQueue.Transfer] {
        let inMemory = memory.baseAddress + layout.slotOffset(slot: slot, sequence: sequence)
        let inFile = layout.fileOffset(layer: slots[slot].layer, sequence: sequence)
        return ranges.flatMap { range in
            stride(from: range.lowerBound, to: range.upperBound, by: Self.mostByteCountPerTransfer).map {
                OffloadQueue.Transfer(
                    direction: direction, fileOffset: inFile + $0,
                    bytes: UnsafeMutableRawBufferPointer(
                        start: inMemory + $0,
                        count: min(Self.mostByteCountPerTransfer, range.upperBound - $0)))
            }
        }
    }

    // MARK: The thread that polls

    /// Waits for the GPU's notices in the order of the visits; between steps asleep.
    private func watch() {
        var step = 1
        while waitUntilBegun(step) {
            for layer in 0..<layout.layerCount {
                let slot = layout.slot(ofLayer: layer)
                guard Notice(words.baseAddress + noticeOffset(slot)).take(unless: isStopping) else { return }
                monitor.withLock { write(slot) }
            }
            step += 1
        }
    }

    private func waitUntilBegun(_ step: Int) -> Bool {
        monitor.withLock {
            while self.step < step && !isStopping.load(ordering: .relaxed) { monitor.wait() }
            return !isStopping.load(ordering: .relaxed)
        }
    }
}
