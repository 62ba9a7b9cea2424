import CPUKernels
import CUDA
import HostRuntime
import Placement
import Synchronization

/// The processor's share of decode steps of the GPU lane: the heads, neurons and rows of the output embedding that the
/// placement gives it, computed where they lie, while the GPU computes the rest.
///
/// The pool's threads walk the blocks of a step in lock step with the GPU. In each they take the block's input,
/// [rows, hidden] in fp16, and give back their part of the block's sum, [rows, hidden] in fp32; behind the last layer
/// they give logits, [rows, rows of the table]. Nothing in it allocates, and nothing locks but giving a buffer back to the
/// disk's reader.
///
/// A block goes piece by piece: what of it lies in CPU memory, then block by block what lies on disk
/// (`CPUShare+Pieces.swift`), each adding its part of the sum.
final class CPUShare: CPUPart, @unchecked Sendable {  // `step` is written while the workers wait
    /// What goes through the link at a time.
    struct Block {
        enum Kind { case attention, mlp, logits }
        let number: Int
        let kind: Kind
        /// The number of layers for logits.
        let layer: Int
        /// Columns of the answer.
        let width: Int
    }

    let link: LaneLink
    let workers: CPUWorkers
    let heads: Range<Int>
    private(set) var neurons: Range<Int>
    /// Rows of the token table.
    let rows: Range<Int>
    var isGPUAtWork: @Sendable () -> Bool = { true }
    /// The exchanges of a step.
    let blockCount: Int
    /// What the parts of all blocks took in the last step, from their input to their answer.
    private(set) var busySeconds = 0.0

    let configuration: OPTConfiguration
    let weights: GPUWeights
    private let kernels: tandem_cpu_kernels
    private let scratch: CPUScratch
    private let shares: WorkShares
    let attentionPieces, mlpPieces: [[CPUPiece]]
    let logitsPieces: [CPUPiece]
    private let rowCapacity: Int
    /// The heads by where their cache lies.
    private let cacheHeads: RangeSplit
    private let cacheForm: CacheForm
    /// Of the cache on disk, where there is one.
    private var visits: DiskKVCache.Visits?
    private let sequences: UnsafeMutablePointer<CachedRow>
    private let blocksPerLayer: Int
    private let hasNeurons: Bool
    private var number: UInt32 = 0
    private var rowCount = 0
    /// Blocks of the step.
    private var takenByLeader = 0
    private var timeline: Timeline?
    // On a cache line of its own: arrivals must not disturb the threads that are still at work.
    private let padding: (SIMD16<Int64>, SIMD16<Int64>) = (.zero, .zero)
    private let arrivedCount = Atomic<Int>(0)

    /// Where a row's sequence has its cache. A plain value: references that all threads count at the same time would
    /// cost microseconds.
    private struct CachedRow {
        var inMemory: Lines
        /// Slots in the layers' place.
        var onDisk: Lines
        var position: Int
    }

    /// [layer][key, value][head][capacity][head dimension]
    private struct Lines {
        var base: UnsafeMutableRawPointer?
        var capacity = 0
    }

    init(_ weights: GPUWeights, workers: CPUWorkers, rowCapacity: Int, context: Context) throws {
        let placement = weights.placement
        let configuration = weights.configuration
        self.weights = weights
        self.configuration = configuration
        self.workers = workers
        self.rowCapacity = rowCapacity
        heads = placement.attention.cpuComputed
        neurons = placement.mlp.cpuComputed
        hasNeurons = !neurons.isEmpty
        rows = placement.tokenTable.cpuComputed
        cacheHeads = placement.cacheHeads
        cacheForm = CacheForm(configuration)
        let disk = weights.cpuDisk
        attentionPieces = Self.pieces(
            inMemory: placement.attention.cpuComputed(on: .cpu), disk?.attention ?? [],
            layerCount: configuration.layerCount)
        mlpPieces = Self.pieces(
            inMemory: placement.mlp.cpuComputed(on: .cpu), disk?.mlp ?? [],
            layerCount: configuration.layerCount)
        logitsPieces =
            Self.pieces(
                inMemory: placement.tokenTable.cpuComputed(on: .cpu), [disk?.logits ?? []], layerCount: 1)[0]
        kernels = workers.kernels.pointee
        blocksPerLayer = (heads.isEmpty ? 0 : 1) + (neurons.isEmpty ? 0 : 1)
        blockCount = configuration.layerCount * blocksPerLayer + (rows.isEmpty ? 0 : 1)
        link = try LaneLink(
            LaneLink.Shape(
                exchangeCount: blockCount,
                inputByteCount: rowCapacity * max(configuration.hiddenSize, configuration.embeddingSize) * 2,
                answerByteCount: rowCapacity * max(configuration.hiddenSize, rows.count) * 4),
            limits: workers.linkLimits, context: context)
        shares = WorkShares(mostWorkers: workers.pool.workerCount)
        scratch = try CPUScratch(
            configuration, rowCapacity: rowCapacity, workerCount: workers.pool.workerCount,
            kernels: workers.kernels.pointee)
        sequences = .allocate(capacity: rowCapacity)
    }

    deinit { sequences.deallocate() }

    /// The processor's part of a layer's attention; nil where it has no heads.
    func attention(layer: Int) -> Block? {
        if heads.isEmpty { return nil }
        return Block(
            number: layer * blocksPerLayer, kind: .attention, layer: layer, width: configuration.hiddenSize)
    }

    /// The processor's part of a layer's MLP; nil where it has no neurons.
    func mlp(layer: Int) -> Block? {
        if !hasNeurons { return nil }
        return Block(
            number: layer * blocksPerLayer + blocksPerLayer - 1, kind: .mlp, layer: layer,
            width: configuration.hiddenSize)
    }

    /// The processor's rows of the logits; nil where it has none.
    var logits: Block? {
        if rows.isEmpty { return nil }
        let layerCount = configuration.layerCount
        return Block(
            number: layerCount * blocksPerLayer, kind: .logits, layer: layerCount, width: rows.count)
    }

    // MARK: A step

    /// Lets the processor's part of every MLP begin at `first` from the next step on. Its weights are all in CPU memory.
    func takeNeurons(from first: Int) { neurons = first..<neurons.upperBound }

    /// The weights of a step.
    var weightByteCount: Int {
        let shape = weights.placement.shape
        return shape.layerCount
            * (heads.count * shape.bytesPerHead + neurons.count * shape.bytesPerNeuron)
            + rows.count * shape.bytesPerTokenRow
    }

    func begin(_ batch: StepBatch, cache: GPUKVCache, step number: UInt32, timeline: Timeline?) {
        precondition(
            batch.rowCount <= rowCapacity && batch.rowCount == batch.segmentCount,
            "CPUShare: \(batch.rowCount) rows of \(rowCapacity), \(batch.segmentCount) sequences")
        self.number = number
        self.timeline = timeline
        weights.cpuDisk?.begin()
        takenByLeader = 0
        rowCount = batch.rowCount
        busySeconds = 0
        shares.divide(among: workers.pool.undisturbedCount, moveCount: workers.pool.moveCount)
        for row in 0..<batch.rowCount {
            let sequence = batch.segments[row].sequence
            var inMemory = Lines()
            var onDisk = Lines()
            if !heads.isEmpty && !cacheHeads.cpu.isEmpty {
                inMemory = Lines(
                    base: cache.hostPointer(of: sequence), capacity: cache.lineCapacities[sequence])
            }
            if let disk = cache.disk {
                onDisk = Lines(
                    base: disk.hostPointer(of: sequence), capacity: disk.layout.capacities[sequence])
            }
            sequences[row] = CachedRow(
                inMemory: inMemory, onDisk: onDisk, position: Int(batch.positions[row]))
        }
        visits = cache.disk?.visits
    }

    var layerCount: Int { configuration.layerCount }

    func run(worker: Int, layers: Range<Int>) {
        for layer in layers {
            if let block = attention(layer: layer) { take(block, worker) }
            if let block = mlp(layer: layer) { take(block, worker) }
        }
        if layers.upperBound == layerCount, let block = logits { take(block, worker) }
    }

    /// Lets the leader meet the others in the blocks that it has not taken, of a step whose link is aborted.
    func leave() {
        let first = takenByLeader
        for layer in 0..<configuration.layerCount {
            if let block = attention(layer: layer), block.number >= first { take(block, 0) }
            if let block = mlp(layer: layer), block.number >= first { take(block, 0) }
        }
        if let block = logits, block.number >= first { take(block, 0) }
    }

    /// A worker's part of one block; the worker that is last answers for all.
    ///
    /// Where the link is aborted the workers still meet at all barriers, as not all of them may have seen it, but nothing
    /// is computed or answered.
    func take(_ block: Block, _ worker: Int) {
        if worker == 0 { takenByLeader = block.number + 1 }
        let hasInput = link.waitForInput(
            of: block.number, step: number, isGPUAtWork: { isStepAlive(worker) })
        // The leader's time stands for all: they meet within the block.
        let start = worker == 0 || timeline != nil ? ContinuousClock.now : nil
        for index in 0..<pieceCount(block) {
            if index > 0 { barrier.wait() }
            compute(block, index, worker, hasInput)
        }
        if worker == 0, let start { busySeconds += start.duration(to: .now) / .seconds(1) }
        let arrived = arrivedCount.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue
        if arrived < workers.pool.activeCount { return }
        arrivedCount.store(0, ordering: .relaxed)
        if link.fault != nil { return }
        link.publishAnswer(of: block.number, step: number)
        if let start { timeline?.add(.cpu, Self.span(block.kind), layer: block.layer, from: start, to: .now) }
    }

    /// What a breakdown calls it.
    private static func span(_ kind: Block.Kind) -> String {
        switch kind {
        case .attention: "self-attention"
        case .mlp: "MLP"
        case .logits: "logits"
        }
    }

    var barrier: SpinBarrier { workers.pool.barrier }

    // MARK: Blocks

    /// A worker's part of one of a block's pieces; `matrices` are nil where the link is aborted.
    private func compute(_ block: Block, _ index: Int, _ worker: Int, _ hasInput: Bool) {
        let piece = piece(index, of: block)
        let matrices = hasInput ? matrices(of: piece, in: block, worker) : nil
        for first in stride(from: 0, to: rowCount, by: CPUScratch.fewRows) {
            let chunk = first..<min(first + CPUScratch.fewRows, rowCount)
            if first > 0 { barrier.wait() }
            switch block.kind {
            case .attention: attend(block, piece.range, matrices, chunk, worker)
            case .mlp: computeMLP(block, piece.range, matrices, chunk, worker)
            case .logits: if let matrices { computeLogits(piece.range, matrices, chunk, worker) }
            }
        }
        if case .disk = piece.source { giveBack(worker, matrices) }
    }

    private func attend(
        _ block: Block, _ heads: Range<Int>, _ matrices: Matrices?, _ chunk: Range<Int>, _ worker: Int
    ) {
        let hidden = configuration.hiddenSize
        let width = heads.count * configuration.headDimension
        if let matrices {
            let x = blockInput(chunk, width: hidden, matrices.inputs.form, worker)
            work(on: 3 * width, unit: matrices.inputs.form.unit, worker) { columns, _ in
                for which in 0..<3 {  // queries, keys, values
                    let own = columns.clamped(to: which * width..<(which + 1) * width)
                    if own.isEmpty { continue }
                    let first = own.lowerBound - which * width
                    matrices.inputs.from(which * matrices.stride).multiply(
                        x, outputs: first..<first + own.count,
                        bias: matrices.bias.map { $0 + which * matrices.stride },
                        y: scratch.qkv + which * width, yStride: 3 * width, activation: TANDEM_IDENTITY,
                        kernels)
                }
                let queries = columns.clamped(to: 0..<width)
                let scale = configuration.queryScale
                for row in 0..<chunk.count {
                    let values = scratch.qkv + row * 3 * width
                    for column in queries { values[column] *= scale }
                }
            }
        }
        barrier.wait()
        if matrices != nil && waitForCache(of: heads, layer: block.layer, worker) {
            let pairs = share(of: chunk.count * heads.count, worker: worker, of: workers.pool.activeCount)
            for pair in pairs {
                attend(
                    row: pair / heads.count, of: chunk, head: pair % heads.count, of: heads,
                    layer: block.layer, worker)
            }
        }
        barrier.wait()
        if let matrices {
            let output = matrices.outputs!
            work(on: width, unit: output.form.unit, worker) { inputs, isFirst in
                output.multiplyTransposed(
                    scratch.attended, stride: width, rowCount: chunk.count, inputs: inputs,
                    y: scratch.partial(worker: worker), accumulates: !isFirst,
                    groups: scratch.inputGroups(worker: worker), kernels)
            }
        }
        let isAlone = weights.layers[block.layer].attention.isEmpty
        join(
            block, heads, chunk,
            bias: isAlone ? weights.hostShards[block.layer].attention.outputBias : nil, worker,
            matrices != nil)
    }

    /// Waits until the keys and values of heads whose cache lies on disk are in the layer's slot; false where the link is or
    /// becomes aborted.
    private func waitForCache(of heads: Range<Int>, layer: Int, _ worker: Int) -> Bool {
        guard let visits, heads.overlaps(cacheHeads.disk) else { return true }
        return link.wait(isGPUAtWork: { isStepAlive(worker) }) { visits.isOpen(layer: layer) }
    }

    /// Stores a row's key and value of one of the heads and computes its attention.
    private func attend(
        row: Int, of chunk: Range<Int>, head: Int, of heads: Range<Int>, layer: Int, _ worker: Int
    ) {
        let headDimension = configuration.headDimension
        let width = heads.count * headDimension
        let place = sequences[chunk.lowerBound + row]
        let isOnDisk = cacheHeads.disk.contains(heads.lowerBound + head)
        let cached = isOnDisk ? cacheHeads.disk : cacheHeads.cpu
        let lines = isOnDisk ? place.onDisk : place.inMemory
        let line = lines.capacity * cacheForm.positionByteCount
        let cachedLayer = isOnDisk ? visits!.slot(ofLayer: layer) : layer
        let number = 2 * cachedLayer * cached.count + heads.lowerBound + head - cached.lowerBound
        let keys = lines.base! + number * line
        let values = keys + cached.count * line
        let qkv = scratch.qkv + row * 3 * width + head * headDimension
        cacheForm.store(qkv + width, in: keys, position: place.position, kernels)
        cacheForm.store(qkv + 2 * width, in: values, position: place.position, kernels)
        var operation = tandem_attention(
            queries: qkv, query_stride: 3 * width, keys: keys, values: values,
            out: scratch.attended + row * width + head * headDimension, out_stride: width, query_count: 1,
            head_dim: headDimension, first_position: place.position,
            scratch: scratch.attention(worker: worker), cache_bits: cacheForm.bits)
        kernels.attention(&operation)
    }

    /// fc1 and fc2 of a thread's neurons without a meeting between them.
    private func computeMLP(
        _ block: Block, _ neurons: Range<Int>, _ matrices: Matrices?, _ chunk: Range<Int>, _ worker: Int
    ) {
        if let matrices { computeNeurons(neurons.count, matrices, chunk, worker) }
        let isAlone = weights.layers[block.layer].mlp.isEmpty
        join(
            block, neurons, chunk, bias: isAlone ? weights.hostShards[block.layer].mlp.fc2Bias : nil, worker,
            matrices != nil)
    }

    private func computeNeurons(_ count: Int, _ matrices: Matrices, _ chunk: Range<Int>, _ worker: Int) {
        let x = blockInput(chunk, width: configuration.hiddenSize, matrices.inputs.form, worker)
        let fc2 = matrices.outputs!
        work(on: count, unit: fc2.form.unit, worker) { own, isFirst in
            matrices.inputs.multiply(
                x, outputs: own, bias: matrices.bias, y: scratch.neurons, yStride: count,
                activation: configuration.activation.cpuCode, kernels)
            fc2.multiplyTransposed(
                scratch.neurons, stride: count, rowCount: chunk.count, inputs: own,
                y: scratch.partial(worker: worker), accumulates: !isFirst,
                groups: scratch.inputGroups(worker: worker), kernels)
        }
    }

    private func computeLogits(
        _ piece: Range<Int>, _ matrices: Matrices, _ chunk: Range<Int>, _ worker: Int
    ) {
        let x = blockInput(chunk, width: configuration.embeddingSize, matrices.inputs.form, worker)
        let y = answer + chunk.lowerBound * rows.count + piece.lowerBound - rows.lowerBound
        work(on: piece.count, worker) { columns, _ in
            matrices.inputs.multiply(
                x, outputs: columns, bias: nil, y: y, yStride: rows.count, activation: TANDEM_IDENTITY,
                kernels)
        }
    }

    /// The rows of the block's input in fp32, ready for products with matrices of a form. Every worker converts them for
    /// itself: it takes less time than a meeting.
    private func blockInput(
        _ chunk: Range<Int>, width: Int, _ form: MatrixForm, _ worker: Int
    ) -> LayerMatrix.Activations {
        let x = scratch.normalized(worker: worker)
        let input = link.input.assumingMemoryBound(to: UInt16.self) + chunk.lowerBound * width
        kernels.float_from_half(input, x, chunk.count * width)
        return LayerMatrix.prepare(
            UnsafePointer(x), stride: width, rowCount: chunk.count, inputs: width, for: form,
            groups: scratch.groups(worker: worker), kernels)
    }

    /// Adds the workers' sums of a piece up in the answer, each worker some of the columns; the first piece brings the bias.
    private func join(
        _ block: Block, _ range: Range<Int>, _ chunk: Range<Int>, bias: UnsafePointer<Float>?, _ worker: Int,
        _ isComputed: Bool
    ) {
        barrier.wait()
        if !isComputed { return }
        let isFirst = range.lowerBound == piece(0, of: block).range.lowerBound
        let hidden = configuration.hiddenSize
        let columns = part(of: hidden, worker)
        let x = answer + chunk.lowerBound * hidden + columns.lowerBound
        if isFirst {
            for row in 0..<chunk.count { (x + row * hidden).update(repeating: 0, count: columns.count) }
        }
        var join = tandem_join(
            x: x, x_stride: hidden, bias: isFirst ? bias.map { $0 + columns.lowerBound } : nil,
            partials: scratch.partial(worker: 0) + columns.lowerBound, partial_stride: scratch.partialStride,
            row_stride: hidden, partial_count: workers.pool.activeCount, rows: chunk.count,
            width: columns.count)
        kernels.join(&join)
    }

    private var answer: UnsafeMutablePointer<Float> { link.answer.assumingMemoryBound(to: Float.self) }

    private func work(
        on count: Int, unit: Int = WorkShares.productUnit, _ worker: Int,
        _ body: (_ run: Range<Int>, _ isFirst: Bool) -> Void
    ) {
        shares.work(on: count, worker: worker, multiple: unit, body)
    }

    /// The part of `count` that a worker computes. Cache lines of fp32 results are not divided.
    private func part(of count: Int, _ worker: Int) -> Range<Int> {
        shares.part(of: count, worker: worker, multiple: 16)
    }
}

extension OPTConfiguration.Activation {
    /// As the processor's kernels have it.
    var cpuCode: tandem_activation {
        switch self {
        case .relu: TANDEM_RELU
        case .gelu: TANDEM_GELU
        }
    }
}
