import CPUKernels
import CUDA
import CUDAKernelImage
import Checkpoints
import Collectives
import Glibc
import HostRuntime
import Placement
import Synchronization
import SystemShims

/// The lane that computes on the GPU, with the weights that lie there and those that are streamed to it.
///
/// A decode step is one CUDA graph, from the embedding to the chosen tokens, which come back through mapped memory.
/// Graphs are captured when a number of rows is first met. Prefill puts the same pieces into the stream one by one.
public final class GPULane: Lane, @unchecked Sendable {  // led by one thread at a time
    public let weights: GPUWeights
    let configuration: OPTConfiguration
    public let context: Context
    let kernels: GPUKernels
    let stream: Stream
    let scratch: GPUScratch
    /// Where a step of one sequence can be one kernel.
    let stepKernel: DecodeStepKernel?
    /// Where steps of several sequences can have their weights brought by the copy engine.
    let boxProducts: BoxProducts?
    /// Where there is a library for products of many rows.
    let libraryProducts: LibraryProducts?
    let block: StepBlock
    public let rowCapacity: Int
    public let segmentCapacity: Int
    /// The scratch has room for the logits of one row of each sequence; a text's rows may have it as well.
    public var logitsCapacity: Int { min(rowCapacity, segmentCapacity) }
    private let cacheSlotCount: Int
    /// Attention of decode steps over the cache in CPU memory; nil where the GPU computes it, or none lies there.
    let cpuAttention: CPUCacheAttention?
    /// The heads, neurons and rows that the processor computes in decode steps; nil where the GPU computes all.
    let cpuShare: CPUShare?
    /// The processor's part of decode steps, if it has any: one of these, or both.
    let cpuPart: (any CPUPart)?

    /// The part of a model that this is; nil for a whole one.
    let group: GroupPart?
    /// How the parts' sums become the residual stream; nil for a whole model.
    let reducer: (any GPUReducer)?
    /// What the ranks' step kernels hand each other goes through it; nil where steps are none of theirs.
    private let stepMemory: StepMemory?
    /// What kept the processes from meeting.
    var groupError: CollectiveError?
    /// The columns of a row of logits.
    let logitsWidth: Int
    /// [logits rows, the whole vocabulary], where this process gets the parts' logits.
    private let groupLogits: HostBuffer?
    /// What is being recorded, if anything.
    private(set) var timeline: Timeline?
    /// What a test lets go wrong.
    public var testFault: TestFault?
    private var graphs: [GraphKey: GraphExecutable] = [:]
    var stepNumber: UInt32 = 0
    /// Passes that have begun to use streamed weights.
    private var passCount = 0
    /// `WorkerPool.moveCount` at the last step.
    var poolMoveCount = 0
    /// The neuron where the CPU's part of every MLP begins in this pass; 0 where it does not move.
    private(set) var boundary = 0
    /// Rows of the tables that lie on disk, read here for a step.
    let tableRows: PinnedBuffer
    let tableRowStride: Int
    /// Logits for a sampler on the host, [logits rows, vocabulary].
    private let hostLogits: PinnedBuffer

    /// What a graph was captured for.
    private struct GraphKey: Hashable {
        var rowCount: Int
        var partCount: Int
        var cacheNumber: Int
        /// Where the kernels do not read it.
        var boundary: Int
    }

    /// The most rows of a step: streamed weights are used by as many at once.
    public static let mostRows = 2048
    /// The most sequences of a step.
    public static let mostSequences = 256
    /// A wait that takes longer is a fault: no copy of a block takes a minute.
    static let timeoutSeconds = 60.0
    public static let defaultCacheSlotCount = DiskKVLayout.defaultSlotCount

    /// Makes the lane's memory; the thread that does leads the lane.
    ///
    /// - Parameters:
    ///   - cacheSlotCount: layers of the cache on disk that are under way at most; with one, the disk and computing
    ///     take turns.
    ///   - usesStepKernel: decode steps may take the kernels made for them, which bring weights with the copy engine;
    ///     off, to compare the two ways.
    ///   - library: multiplies many rows; nil for kernels of our own alone.
    ///   - group: the part of a model that the weights are; nil where they are all.
    ///   - stepRanks: the group's ranks, where a decode step of one sequence is one kernel on each of them: all of what
    ///     they have lies in GPU memory, weights and cache.
    ///   - cpu: threads that compute beside the GPU in decode steps: what the placement gives the CPU, and, where they are to,
    ///     attention over the cache in CPU memory, which else the GPU reads over PCIe. nil only where the placement gives
    ///     the CPU nothing.
    public init(
        _ weights: GPUWeights, context: Context, rowCapacity: Int = mostRows,
        segmentCapacity: Int = mostSequences, cacheSlotCount: Int = defaultCacheSlotCount,
        usesStepKernel: Bool = true, library: CUBLASLt? = nil, group: GroupPart? = nil,
        stepRanks: StepRanks? = nil, cpu: CPUWorkers? = nil
    ) throws(ModelError) {
        precondition(
            group == nil || group!.shard.configuration == weights.configuration,
            "GPULane: these are not the weights of rank \(group!.place.rank)")
        self.group = group
        self.weights = weights
        self.context = context
        self.rowCapacity = rowCapacity
        self.segmentCapacity = segmentCapacity
        self.cacheSlotCount = cacheSlotCount
        let configuration = weights.configuration
        self.configuration = configuration
        logitsWidth = Self.logitsWidth(configuration, group)
        let hasDiskCache = !weights.placement.cacheHeads.disk.isEmpty
        do {
            kernels = try GPUKernels(context)
            stream = try Stream(context: context, priority: .high)
            scratch = try GPUScratch(
                configuration, rowCapacity: rowCapacity, logitsCapacity: segmentCapacity,
                stepByteCount: StepBlock.Layout(rowCapacity: rowCapacity, hasDiskCache: hasDiskCache)
                    .byteCount, hasOwnSum: group.map { !$0.isConductor } ?? false, logitsWidth: logitsWidth,
                context: context)
            block = try StepBlock(rowCapacity: rowCapacity, hasDiskCache: hasDiskCache, context: context)
            // A row that lies on disk, with the blocks of the disk around it; two tables.
            tableRowStride =
                2 * OffloadFile.alignment
                + OffloadFile.aligned(
                    max(configuration.hiddenSize, configuration.embeddingSize) * 2)
            let needsRows = !weights.tokenTable.isMapped || !weights.positionTable.isMapped
            tableRows = try Self.pinned(needsRows ? 2 * rowCapacity * tableRowStride : 4096, context)
            hostLogits = try Self.pinned(segmentCapacity * logitsWidth * 4, context)
            cpuShare = try Self.cpuShare(
                weights, cpu, rowCapacity: min(rowCapacity, segmentCapacity), context)
            cpuAttention = try Self.cpuAttention(
                weights, cpu, rowCapacity: min(rowCapacity, segmentCapacity), partner: cpuShare?.link,
                context)
            cpuPart = Self.cpuPart(cpuShare, cpuAttention)
            reducer = try Self.reducer(
                group, configuration, rowCapacity: rowCapacity, kernels: kernels, scratch: scratch,
                block: block, context: context)
            groupLogits =
                group == nil || !group!.isConductor || group!.gpus?.nccl != nil
                ? nil
                : try HostBuffer(byteCount: segmentCapacity * group!.shard.whole.vocabularySize * 4)
            try stream.fill(
                scratch.zeroRow, byteCount: max(configuration.hiddenSize, configuration.embeddingSize) * 2)
            try stream.fill(scratch.counters, byteCount: GPUScratch.counterCount * 4)
            if let library {
                libraryProducts = try LibraryProducts(library, weights, context: context, stream: stream)
            } else {
                libraryProducts = nil
            }
            var stepRanks = stepRanks
            if stepRanks == nil, usesStepKernel, let group {
                stepMemory = try Self.stepMemory(group, weights, kernels: kernels, context: context)
                stepRanks = stepMemory?.ranks
            } else {
                stepMemory = nil
            }
            stepKernel =
                usesStepKernel && (group == nil || stepRanks != nil)
                ? try DecodeStepKernel(
                    weights, ranks: stepRanks, kernels: kernels, scratch: scratch, context: context,
                    stream: stream) : nil
            precondition(
                stepRanks == nil
                    || stepKernel != nil && weights.placement.cacheHeads.gpu.count == configuration.headCount,
                "GPULane: the step kernel does not take what rank \(stepRanks!.rank) has")
            boxProducts =
                usesStepKernel && group == nil
                ? try BoxProducts(
                    weights, kernels: kernels, scratch: scratch, context: context, stream: stream) : nil
            try stream.synchronize()
        } catch {
            throw ModelError(loading: error)
        }
        cpuPart?.isGPUAtWork = { [unowned self] in isAtWork }
    }

    /// Loads the weights where `placement` puts them, and starts streaming those that are elsewhere.
    ///
    /// Called on the pool's leader thread, which then makes the lane and leads it.
    public static func loadWeights(
        _ configuration: OPTConfiguration, placement: Placement, from source: some TensorSource,
        pool: WorkerPool, kernels: UnsafePointer<tandem_cpu_kernels>, context: Context,
        options: GPUWeights.Options, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws(ModelError) -> GPUWeights {
        do {
            try context.makeCurrent()
            return try GPUWeights(
                configuration, placement: placement, from: source, pool: pool, kernels: kernels,
                context: context, options: options, progress: progress)
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// What a lane needs beside the weights, for sequences with so many positions together.
    public static func workingMemory(
        _ configuration: OPTConfiguration, positionCount: Int, stagingSlotCount: Int,
        cacheSlotCount: Int = defaultCacheSlotCount
    ) -> WorkingMemory {
        var working = WorkingMemory()
        working.cachePositionCount = positionCount
        working.cacheSlotCount = cacheSlotCount
        working.stagingSlotByteCount = GPUWeights.slotByteCount(configuration.shape)
        working.stagingSlotCount = stagingSlotCount
        working.fetchSlotCount = WeightFetcher.slotCount
        working.gpuScratchByteCount =
            GPUScratch.byteCount(
                configuration, rowCapacity: mostRows, logitsCapacity: mostSequences)
            + MatrixMultiplier.workspaceByteCount
        working.readBufferByteCount = DiskReader.bufferCount * working.stagingSlotByteCount
        working.cpuReadBufferByteCount =
            DiskReader.bufferCount * CPUDiskWeights.mostBlockByteCount(configuration)
        return working
    }

    /// The bytes of a sequence's cache on a tier, with its part of the slots where some of it is on disk.
    public func cacheByteCount(on tier: Tier, capacity: Int) -> Int {
        let heads = weights.placement.cacheHeads
        let inPlace =
            heads[tier].count * GPUKVCache.lineCapacity(configuration, capacity)
            * configuration.shape.cacheBytesPerHead
        if heads.disk.isEmpty || tier == .gpu { return inPlace }
        let layout = DiskKVLayout(
            configuration.shape, headCount: heads.disk.count, capacities: [capacity],
            slotCount: cacheSlotCount)
        return tier == .disk ? layout.fileByteCount : inPlace + layout.slotsByteCount
    }

    private static func pinned(_ byteCount: Int, _ context: Context) throws -> PinnedBuffer {
        try PinnedBuffer(try HostBuffer(byteCount: byteCount), context: context)
    }

    public func makeCache(capacities: [Int], logitsCount: Int) throws(ModelError) -> any LaneCache {
        do {
            return try GPUKVCache(
                configuration, weights.placement.cacheHeads, capacities: capacities, rowCapacity: rowCapacity,
                disk: DiskKVCache.Options(folder: weights.offloadFolder, slotCount: cacheSlotCount),
                pool: cpuPart?.workers.pool, context: context)
        } catch {
            throw ModelError(loading: error)
        }
    }

    public func compute(
        _ batch: StepBatch, cache: any LaneCache,
        _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws(ModelError) {
        if batch.rowCount == 0 { return }
        precondition(batch.rowCount <= rowCapacity, "GPULane: \(batch.rowCount) rows of \(rowCapacity)")
        let cache = cache as! GPUKVCache
        let pass = Pass(batch, cache)
        do {
            // What failed once may still be running.
            try checkFailure()
            try weights.cpuDisk?.check()
            try cache.disk?.check()
            stepNumber &+= 1
            if let moving = weights.boundary { boundary = moving.settle(pass: passCount + 1) }
            let layout = try write(batch, cache, rowCapacity: pass.isDecode ? pass.rowCount : rowCapacity)
            if pass.isDecode { testFault?.beginStep() }
            let start = ContinuousClock.now
            cache.disk?.begin(batch, timeline: timeline)
            passCount += 1
            if pass.isDecode {
                if weights.boundary != nil { cpuShare?.takeNeurons(from: boundary) }
                cpuPart?.begin(batch, cache: cache, step: stepNumber, timeline: timeline)
            }
            // Blocks of a whole step wait for each other: they must not share the GPU with those of another lane's. Those of
            // a group's wait for the other ranks', who in tests are lanes of the same process.
            if weights.streamer == nil && cpuPart == nil && (!isWhole(pass, cache) || group != nil) {
                try run(pass, cache, layout)
            } else {
                try context.whileKernelsWait { try run(pass, cache, layout) }
            }
            try weights.streamer?.check()
            try weights.cpuDisk?.check()
            try cache.disk?.check()
            timeline?.add(.host, pass.isDecode ? "decode step" : "prefill", from: start, to: .now)
            if readsBoundary(pass) { rebalance() }
            try deliver(batch, body)
        } catch {
            throw ModelError(loading: groupError ?? error)
        }
    }

    private func run(_ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout) throws {
        group?.progress?.beginStep()
        if cpuPart == nil && testFault?.due == .gpuError { try failGPU(on: stream) }
        if pass.isDecode, let cpuPart {
            try computeWithCPU(cpuPart, pass, cache, layout)
        } else if pass.isDecode && !launchesStepwise(pass) {
            try graph(for: pass, cache, layout).launch(on: stream)
        } else {
            try enqueue(pass, cache, layout)
        }
        if pass.logitsCount > 0 { try waitForStep() } else { try waitForStream() }
    }

    /// Records what computing, copying and reading do from now on.
    public func startTimeline() throws(ModelError) -> Timeline {
        do {
            let timeline = try Timeline(on: stream)
            self.timeline = timeline
            weights.streamer?.record(in: timeline)
            weights.fetcher?.record(in: timeline)
            return timeline
        } catch {
            throw ModelError(error)
        }
    }

    // MARK: Results

    private func deliver(
        _ batch: StepBatch, _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws {
        if let group {
            if !gathersLogits { return try deliver(batch, group, body) }
            if !group.isConductor { return }
        }
        var hasLogits = false
        for index in 0..<batch.segmentCount {
            let segment = batch.segments[index]
            let row = segment.logitsRow
            if row < 0 { continue }
            if batch.choice(segment: index) != nil {
                body(segment, .token(block.tokens[row]))
                continue
            }
            if !hasLogits {
                try stream.download(
                    scratch.logits, to: hostLogits.baseAddress,
                    byteCount: batch.logitsCount * logitsWidth * 4)
                try stream.synchronize()
                hasLogits = true
            }
            body(segment, segment.output(hostLogits.pointer(), vocabularySize: logitsWidth))
        }
    }

    /// The logits of all parts, where this process gets them: tokens are chosen on the host.
    private func deliver(
        _ batch: StepBatch, _ group: GroupPart,
        _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws {
        if batch.logitsCount == 0 { return }
        let (count, wholeCount) = (configuration.vocabularySize, group.shard.whole.vocabularySize)
        try stream.download(
            scratch.logits, to: hostLogits.baseAddress, byteCount: batch.logitsCount * count * 4)
        try stream.synchronize()
        let own: UnsafeMutablePointer<Float> = hostLogits.pointer()
        var all: UnsafeMutablePointer<Float>?
        if groupLogits != nil { all = groupLogits!.pointer() }
        for row in 0..<batch.logitsCount {
            try group.communicator!.gather(
                own + row * count, counts: group.logitsCounts, to: all.map { $0 + row * wholeCount })
        }
        if let all { batch.deliver(all, vocabularySize: wholeCount, body) }
    }

    /// Polls until the GPU has chosen the step's tokens.
    private func waitForStep() throws {
        var polls = 0
        while block.finishedStep.pointee.load(ordering: .acquiring) != stepNumber {
            tandem_spin_hint()
            polls += 1
            // A kernel that failed never finishes its step: the driver is asked now and then.
            if polls % 65536 == 0 { try checkProgress() }
        }
        try checkFailure()
    }

    private func waitForStream() throws {
        var polls = 0
        while try !stream.isIdle {
            tandem_spin_hint()
            try checkFailure()
            polls += 1
            if polls % 4096 == 0 { try checkSources() }
        }
        try checkFailure()
    }

    /// Whether what a step waits for can still come.
    private func checkSources() throws {
        try weights.streamer?.check()
        try group?.gpus?.nccl?.checkProgress()
    }

    private func checkProgress() throws {
        try checkSources()
        try checkFailure()
        if try stream.isIdle && block.finishedStep.pointee.load(ordering: .acquiring) != stepNumber {
            throw ModelError(.gpu, "the GPU ended step \(stepNumber) without choosing a token")
        }
    }

    func checkFailure() throws {
        if block.failure.pointee.load(ordering: .relaxed) == 0 { return try checkLink() }
        try weights.streamer?.check()
        throw ModelError(
            .gpu,
            "what is streamed or read from disk\(group == nil ? "" : ", or another rank's sum,") did not arrive within \(Int(Self.timeoutSeconds)) s; the GPU gave up "
                + "waiting")
    }

    // MARK: Graphs

    func graph(for pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout) throws
        -> GraphExecutable
    {
        let key = GraphKey(
            rowCount: pass.rowCount, partCount: pass.partCount, cacheNumber: cache.number,
            boundary: readsBoundary(pass) ? 0 : boundary)
        if let graph = graphs[key] { return graph }
        // A cache's address is part of its graphs: those of caches that are gone go too.
        graphs = graphs.filter { $0.key.cacheNumber == key.cacheNumber }
        let graph = try Graph(capturing: stream) { () throws(CUDAError) in
            try enqueue(pass, cache, layout)
        }.instantiate()
        try graph.upload(on: stream)
        graphs[key] = graph
        return graph
    }
}
