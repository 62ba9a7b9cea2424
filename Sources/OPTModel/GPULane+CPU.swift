import CUDA
import CUDAKernelImage
import HostRuntime
import Synchronization

/// What the processor's threads do in decode steps of the GPU lane.
protocol CPUPart: WorkerTask, AnyObject, Sendable {
    var link: LaneLink { get }
    var workers: CPUWorkers { get }
    /// Asked by the leader thread now and then while it waits for the GPU.
    var isGPUAtWork: @Sendable () -> Bool { get set }

    /// Makes the next step known, before anything of it reaches the GPU. The batch has one row for each sequence.
    func begin(_ batch: StepBatch, cache: GPUKVCache, step number: UInt32, timeline: Timeline?)

    /// Ends the leader's part of a step whose link is aborted, wherever it is within it: others may wait for it.
    func leave()

    var layerCount: Int { get }
    /// A worker's part of some layers of the step, and of what comes behind the last one.
    func run(worker: Int, layers: Range<Int>)
}

extension CPUPart {
    func run(worker: Int) { run(worker: worker, layers: 0..<layerCount) }

    /// What a worker asks now and then while it waits for the GPU: false where that has failed. Where another worker has
    /// stopped for good, which the GPU will wait for, the link is aborted.
    func isStepAlive(_ worker: Int) -> Bool {
        if workers.pool.lookAfterWorkers() {
            link.abort(.workerStopped)
            return true
        }
        // The leader alone may ask the driver.
        return worker != 0 || isGPUAtWork()
    }
}

/// Decode steps of which the processor computes a part.
extension GPULane {
    static func cpuPart(_ share: CPUShare?, _ attention: CPUCacheAttention?) -> (any CPUPart)? {
        guard let share, let attention else { return share ?? attention }
        return CPUShareAndCache(share, attention)
    }

    static func cpuShare(
        _ weights: GPUWeights, _ workers: CPUWorkers?, rowCapacity: Int, _ context: Context
    ) throws -> CPUShare? {
        guard weights.placement.computesOnCPU else { return nil }
        guard let workers else { preconditionFailure("GPULane: the CPU's share without its threads") }
        return try CPUShare(
            weights, workers: workers, rowCapacity: min(rowCapacity, Pass.mostDecodeRows), context: context)
    }

    static func cpuAttention(
        _ weights: GPUWeights, _ workers: CPUWorkers?, rowCapacity: Int, partner: LaneLink?,
        _ context: Context
    ) throws -> CPUCacheAttention? {
        let heads = weights.placement.cacheHeads.cpu
        guard let workers, workers.computesCache, heads.overlaps(weights.placement.attention.gpuComputed)
        else { return nil }
        return try CPUCacheAttention(
            weights.configuration, pieces: weights.layers.map { $0.attention.map(\.heads) }, heads: heads,
            workers: workers, rowCapacity: min(rowCapacity, Pass.mostDecodeRows), partner: partner,
            context: context)
    }

    /// Whether the processor's threads compute a part of decode steps.
    public var usesCPU: Bool { cpuPart != nil }
    /// Whether that part is attention over the cache in CPU memory of heads whose other part the GPU computes.
    public var computesCacheOnCPU: Bool { cpuAttention != nil }

    /// Puts a decode step into the stream and does the processor's part of it.
    func computeWithCPU(
        _ part: any CPUPart, _ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout
    ) throws {
        if !launchesStepwise(pass) {
            try graph(for: pass, cache, layout).launch(on: stream)
            part.workers.pool.runUndisturbed(try withTestFault(part, of: part))
        } else {
            let step = RecordedStep(part) { [self] () throws(CUDAError) in
                try enqueue(pass, cache, layout)
            }
            part.workers.pool.runUndisturbed(try withTestFault(step, of: part))
            if let error = step.error { throw error }
        }
        if part.workers.pool.hasLostWorker {
            part.link.abort(.workerStopped)
            // Should it wake up after all, it must find what it was at work on.
            _ = Unmanaged.passRetained(cache)
        }
        try checkFailure()
    }

    /// Whether the GPU is within a step, and nothing that it depends on has failed.
    var isAtWork: Bool {
        do {
            try weights.streamer?.check()
            try weights.cpuDisk?.check()
            return try block.failure.pointee.load(ordering: .relaxed) == 0 && !stream.isIdle
        } catch {
            return false
        }
    }

    /// Throws why an exchange with the processor did not come about: what stopped the GPU, where that is known.
    func checkLink() throws {
        guard let link = cpuPart?.link, link.fault != nil else { return }
        try weights.streamer?.check()
        try weights.cpuDisk?.check()
        _ = try stream.isIdle
        try link.check()
    }

    // MARK: The GPU's side of an exchange

    /// Hands queries, keys and values of a piece's heads to the processor.
    func publish(_ exchange: CPUCacheAttention.Exchange, of piece: AttentionPiece, _ pass: Pass)
        throws(CUDAError)
    {
        let link = cpuAttention!.link
        // Queries, keys and values of a row are rows of their own here.
        try kernels.link.publish(
            tandem_gpu_publish(
                from: scratch.qkv + offset(of: exchange, in: piece), to: link.inputAddress,
                step: stepNumberAddress, word: link.inputWordAddress(exchange.number),
                counter: scratch.counters, rows: UInt32(3 * pass.rowCount),
                stride: UInt32(piece.heads.count * configuration.headDimension),
                columns: UInt32(exchange.heads.count * configuration.headDimension)), on: stream)
    }

    /// Lets the stream wait for the attended rows and puts them where attention of the piece's other heads puts its own.
    func take(_ exchange: CPUCacheAttention.Exchange, of piece: AttentionPiece, _ pass: Pass)
        throws(CUDAError)
    {
        let link = cpuAttention!.link
        try span("waiting for the CPU") { () throws(CUDAError) in
            try kernels.link.await(
                tandem_gpu_await(
                    from: link.answerAddress, to: scratch.attended + offset(of: exchange, in: piece),
                    step: stepNumberAddress, word: link.answerWordAddress(exchange.number),
                    abort: link.abortAddress, rows: UInt32(pass.rowCount),
                    stride: UInt32(piece.heads.count * configuration.headDimension),
                    columns: UInt32(exchange.heads.count * configuration.headDimension),
                    timeout_nanoseconds: UInt64(link.limits.gpuSeconds * 1e9)), on: stream)
        }
        // Where the step goes kernel by kernel it is this thread that launches it, too, and the others are waiting.
        if !launchesStepwise(pass) { return }
        // The others do their share of the block first, and wait for this thread in it.
        if exchange.isFirst, let block = cpuShare?.attention(layer: exchange.layer) {
            cpuShare!.take(block, 0)
        }
        cpuAttention!.take(exchange, 0)
    }

    /// Hands a block's input, [rows, width], to the processor.
    func publish(_ share: CPUShare.Block, x: UInt64, width: Int? = nil, _ pass: Pass) throws(CUDAError) {
        let link = cpuShare!.link
        let width = UInt32(width ?? configuration.hiddenSize)
        try kernels.link.publish(
            tandem_gpu_publish(
                from: x, to: link.inputAddress, step: stepNumberAddress,
                word: link.inputWordAddress(share.number), counter: scratch.counters,
                rows: UInt32(pass.rowCount), stride: width, columns: width), on: stream)
    }

    /// Lets the stream wait for the processor's part of a block and adds it, or puts it, to what is there.
    func join(_ share: CPUShare.Block, onto to: UInt64, stride: Int, adds: Bool, _ pass: Pass)
        throws(CUDAError)
    {
        let link = cpuShare!.link
        try span("waiting for the CPU") { () throws(CUDAError) in
            try kernels.link.join(
                tandem_gpu_join(
                    from: link.answerAddress, to: to, step: stepNumberAddress,
                    word: link.answerWordAddress(share.number), abort: link.abortAddress,
                    rows: UInt32(pass.rowCount), stride: UInt32(stride), columns: UInt32(share.width),
                    adds: adds ? 1 : 0, timeout_nanoseconds: UInt64(link.limits.gpuSeconds * 1e9)), on: stream
            )
        }
        // Where the step goes kernel by kernel it is this thread that launches it, too, and the others are waiting.
        if !launchesStepwise(pass) { return }
        if share.kind == .attention && cpuAttention?.hasExchanges(layer: share.layer) == true { return }
        cpuShare!.take(share, 0)
    }

    /// Bytes in front of the exchange's heads in a row of the piece.
    private func offset(of exchange: CPUCacheAttention.Exchange, in piece: AttentionPiece) -> UInt64 {
        UInt64((exchange.heads.lowerBound - piece.heads.lowerBound) * configuration.headDimension * 2)
    }

    private var stepNumberAddress: UInt64 { scratch.step + UInt64(StepBlock.Layout.stepNumber) }
}

/// A decode step that is launched kernel by kernel, by the leader, which takes its part of each exchange when it has
/// launched the kernels up to there: a stream takes only so many launches ahead of the GPU, which waits for the answer.
private final class RecordedStep: WorkerTask, @unchecked Sendable {  // all but `part` is the leader's
    private let part: any CPUPart
    private let launch: () throws(CUDAError) -> Void
    private(set) var error: CUDAError?

    init(_ part: any CPUPart, launch: @escaping () throws(CUDAError) -> Void) {
        self.part = part
        self.launch = launch
    }

    func run(worker: Int) {
        if worker > 0 { return part.run(worker: worker) }
        do throws(CUDAError) {
            try launch()
        } catch {
            self.error = error
            part.link.abort(.gpuFailed)
            part.leave()
        }
    }
}
