import CUDA

/// Brings to the GPU what the CPU computes in decode steps, once for each prefill, in which the GPU computes everything.
///
/// Copies follow each other on a stream of their own, beside those of the `WeightStreamer`, through a few slots in GPU
/// memory. All of it is asked for ahead by the thread that launches prefill; events keep the two streams in step.
/// What lies on disk that thread waits for.
final class WeightFetcher: @unchecked Sendable {  // used by the thread that leads the lane
    struct Block: @unchecked Sendable {  // the memory is the weights', read-only once loaded
        var source: StreamedBlock.Source
        var byteCount: Int
        /// Heads, neurons or rows: every run has as many equal parts.
        var itemCount: Int
    }

    static let slotCount = 2

    private(set) var blocks: [Block] = []
    /// Where blocks of the disk are taken from, in the order in which they were added.
    var disk: CPUDiskWeights?
    private let slotByteCount: Int
    private let memory: DeviceBuffer
    private let copies: Stream
    private let arrivals: [Event]
    private let uses: [Event]
    private var timeline: Timeline?

    init(slotByteCount: Int, context: Context) throws(CUDAError) {
        self.slotByteCount = slotByteCount
        memory = try DeviceBuffer(byteCount: slotByteCount * Self.slotCount, context: context)
        copies = try Stream(context: context)
        var arrivals: [Event] = []
        var uses: [Event] = []
        for _ in 0..<Self.slotCount {
            arrivals.append(try Event(context: context))
            uses.append(try Event(context: context))
        }
        self.arrivals = arrivals
        self.uses = uses
    }

    /// Work that has been asked for is done before the memory goes.
    deinit { try? copies.synchronize() }

    /// Adds a block to those that can be fetched; blocks are fetched in the order in which they were added.
    ///
    /// - Returns: its number.
    func add(_ block: Block) -> Int {
        precondition(
            block.byteCount <= slotByteCount, "WeightFetcher: \(block.byteCount) bytes of \(slotByteCount)")
        blocks.append(block)
        return blocks.count - 1
    }

    func address(ofBlock index: Int) -> UInt64 {
        memory.address + UInt64(index % Self.slotCount * slotByteCount)
    }

    func record(in timeline: Timeline) {
        self.timeline = timeline
        disk?.record(in: timeline)
    }

    /// Asks for a block's copy, behind the last use of its slot, and lets `stream` wait for it. The place of the items that
    /// are skipped stays as it was.
    func fetch(_ index: Int, skipping skipped: Int, for stream: Stream) throws(CUDAError) {
        let slot = index % Self.slotCount
        // An event that was never recorded lets everything pass.
        try copies.wait(for: uses[slot])
        var bytes: UnsafeRawPointer?
        if case .disk = blocks[index].source { bytes = disk!.next() }
        if let timeline {
            try timeline.record(.copy, "copy to the GPU", on: copies) { () throws(CUDAError) in
                try copy(index, skipping: skipped, from: bytes)
            }
        } else {
            try copy(index, skipping: skipped, from: bytes)
        }
        try arrivals[slot].record(on: copies)
        try stream.wait(for: arrivals[slot])
    }

    /// Gives a block's slot back, behind what is in `stream`.
    func release(_ index: Int, from stream: Stream) throws(CUDAError) {
        try uses[index % Self.slotCount].record(on: stream)
    }

    /// Takes a block of the disk without a copy, for a pass that does not need it; nothing is to be done for others.
    func skip(_ index: Int) {
        if case .disk = blocks[index].source, disk!.next() != nil { disk!.giveBack() }
    }

    private func copy(_ index: Int, skipping skipped: Int, from read: UnsafeRawPointer?) throws(CUDAError) {
        var address = address(ofBlock: index)
        switch blocks[index].source {
        case .host(let runs):
            for run in runs {
                let first = skipped * (run.count / blocks[index].itemCount)
                try copies.upload(
                    run.baseAddress! + first, to: address + UInt64(first), byteCount: run.count - first)
                address += UInt64(run.count)
            }
        case .disk:
            // Where the disk has failed the pass goes on to its end, which is an error.
            guard let read else { return }
            try copies.upload(read, to: address, byteCount: blocks[index].byteCount)
            try disk!.giveBack(on: copies)
        }
    }
}
