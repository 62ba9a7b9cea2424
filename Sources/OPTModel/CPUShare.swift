import CPUKernels
import CUDA
import HostRuntime
import Synchronization

/// The processor's share of decode steps of the GPU lane: the heads, neurons and rows of the output embedding that the
/// placement gives it, computed where they lie, while the GPU computes the rest.
///
/// The pool's threads walk the blocks of a step in lock step with the GPU. In each they take the block's input,
/// [rows, hidden] in fp16, and give back their part of the block's sum, [rows, hidden] in fp32; behind the last layer
/// they give logits, [rows, rows of the table]. Nothing in it locks or allocates.
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

    private let configuration: OPTConfiguration
    private let weights: GPUWeights
    private let kernels: tandem_cpu_kernels
    private let scratch: CPUScratch
    private let rowCapacity: Int
    private let cacheHeads: Range<Int>
    private let sequences: UnsafeMutablePointer<CachedRow>
    private let blocksPerLayer: Int
    private let hasNeurons: Bool
    private var number: UInt32 = 0
    private var rowCount = 0
    private var timeline: Timeline?
    // On a cache line of its own: arrivals must not disturb the threads that are still at work.
    private let padding: (SIMD16<Int64>, SIMD16<Int64>) = (.zero, .zero)
    private let arrivedCount = Atomic<Int>(0)

    /// Where a row's sequence has its cache. A plain value: references that all threads count at the same time would
    /// cost microseconds.
    private struct CachedRow {
        /// [layer][key, value][head][capacity][head dimension]
        var cache: UnsafeMutablePointer<UInt16>?
        var capacity: Int
        var position: Int
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
        cacheHeads = placement.cacheHeads.cpu
        kernels = workers.kernels.pointee
        blocksPerLayer = (heads.isEmpty ? 0 : 1) + (neurons.isEmpty ? 0 : 1)
        blockCount = configuration.layerCount * blocksPerLayer + (rows.isEmpty ? 0 : 1)
        link = try LaneLink(
            LaneLink.Shape(
                exchangeCount: blockCount,
                inputByteCount: rowCapacity * max(configuration.hiddenSize, configuration.embeddingSize) * 2,
                answerByteCount: rowCapacity * max(configuration.hiddenSize, rows.count) * 4),
            limits: workers.linkLimits, context: context)
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
        rowCount = batch.rowCount
        busySeconds = 0
        for row in 0..<batch.rowCount {
            let sequence = batch.segments[row].sequence
            sequences[row] = CachedRow(
                cache: heads.isEmpty ? nil : cache.hostPointer(of: sequence),
                capacity: cache.capacities[sequence], position: Int(batch.positions[row]))
        }
    }

    var layerCount: Int { configuration.layerCount }

    func run(worker: Int, layers: Range<Int>) {
        for layer in layers {
            if let block = attention(layer: layer) { take(block, worker) }
            if let block = mlp(layer: layer) { take(block, worker) }
        }
        if layers.upperBound == layerCount, let block = logits { take(block, worker) }
    }

    /// A worker's part of one block; the worker that is last answers for all.
    ///
    /// Where the link is aborted the workers still meet at all barriers, as not all of them may have seen it, but nothing
    /// is computed or answered.
    func take(_ block: Block, _ worker: Int) {
        let hasInput = link.waitForInput(
            of: block.number, step: number, isGPUAtWork: { isStepAlive(worker) })
        // The leader's time stands for all: they meet within the block.
        let start = worker == 0 || timeline != nil ? ContinuousClock.now : nil
        for first in stride(from: 0, to: rowCount, by: CPUScratch.fewRows) {
            let chunk = first..<min(first + CPUScratch.fewRows, rowCount)
            if first > 0 { barrier.wait() }
            switch block.kind {
            case .attention: attend(block, chunk, worker, hasInput)
            case .mlp: computeMLP(block, chunk, worker, hasInput)
            case .logits: if hasInput { computeLogits(chunk, worker) }
            }
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

    private var barrier: SpinBarrier { workers.pool.barrier }

    // MARK: Blocks

    private func attend(_ block: Block, _ chunk: Range<Int>, _ worker: Int, _ hasInput: Bool) {
        let shard = weights.hostShards[block.layer]
        let attention = shard.attention
        let headDimension = configuration.headDimension
        let hidden = configuration.hiddenSize
        let width = heads.count * headDimension
        // The shard has the heads that are streamed to the GPU in front of these.
        let skipped = (heads.lowerBound - shard.heads.lowerBound) * headDimension
        let stored = shard.heads.count * headDimension
        if hasInput {
            let x = blockInput(chunk, width: hidden, worker)
            let columns = part(of: 3 * width, worker)
            for which in 0..<3 {  // queries, keys, values
                let own = columns.clamped(to: which * width..<(which + 1) * width)
                if own.isEmpty { continue }
                let row = which * stored + skipped + own.lowerBound - which * width
                var qkv = tandem_linear(
                    x: x, x_stride: hidden, weights: attention.qkv + row * hidden,
                    bias: attention.qkvBias.map { $0 + row }, y: scratch.qkv + own.lowerBound,
                    y_stride: 3 * width, rows: chunk.count, inputs: hidden, outputs: own.count,
                    activation: TANDEM_IDENTITY)
                kernels.linear(&qkv)
            }
            let queries = columns.clamped(to: 0..<width)
            let scale = configuration.queryScale
            for row in 0..<chunk.count {
                let values = scratch.qkv + row * 3 * width
                for column in queries { values[column] *= scale }
            }
        }
        barrier.wait()
        if hasInput {
            let pairs = share(of: chunk.count * heads.count, worker: worker, of: workers.pool.activeCount)
            for pair in pairs {
                attend(
                    row: pair / heads.count, of: chunk, head: pair % heads.count, layer: block.layer, worker)
            }
        }
        barrier.wait()
        if hasInput {
            let inputs = part(of: width, worker)
            var output = tandem_linear_transposed(
                x: scratch.attended + inputs.lowerBound, x_stride: width,
                weights: attention.output + (skipped + inputs.lowerBound) * hidden,
                y: scratch.partial(worker: worker), y_stride: hidden, rows: chunk.count,
                inputs: inputs.count, outputs: hidden)
            kernels.linear_transposed(&output)
        }
        let isAlone = weights.layers[block.layer].attention.isEmpty
        join(chunk, bias: isAlone ? attention.outputBias : nil, worker, hasInput)
    }

    /// Stores a row's key and value of one of the heads and computes its attention.
    private func attend(row: Int, of chunk: Range<Int>, head: Int, layer: Int, _ worker: Int) {
        let headDimension = configuration.headDimension
        let width = heads.count * headDimension
        let place = sequences[chunk.lowerBound + row]
        let line = place.capacity * headDimension
        let number = 2 * layer * cacheHeads.count + heads.lowerBound + head - cacheHeads.lowerBound
        let keys = place.cache! + number * line
        let values = keys + cacheHeads.count * line
        let qkv = scratch.qkv + row * 3 * width + head * headDimension
        let new = place.position * headDimension
        kernels.half_from_float(qkv + width, keys + new, headDimension)
        kernels.half_from_float(qkv + 2 * width, values + new, headDimension)
        var operation = tandem_attention(
            queries: qkv, query_stride: 3 * width, keys: keys, values: values,
            out: scratch.attended + row * width + head * headDimension, out_stride: width, query_count: 1,
            head_dim: headDimension, first_position: place.position,
            scratch: scratch.attention(worker: worker))
        kernels.attention(&operation)
    }

    /// fc1 and fc2 of a thread's neurons without a meeting between them.
    private func computeMLP(_ block: Block, _ chunk: Range<Int>, _ worker: Int, _ hasInput: Bool) {
        let shard = weights.hostShards[block.layer]
        let mlp = shard.mlp
        if hasInput {
            let hidden = configuration.hiddenSize
            let own = part(of: neurons.count, worker)
            let first = neurons.lowerBound - shard.neurons.lowerBound + own.lowerBound
            var fc1 = tandem_linear(
                x: blockInput(chunk, width: hidden, worker), x_stride: hidden,
                weights: mlp.fc1 + first * hidden, bias: mlp.fc1Bias.map { $0 + first },
                y: scratch.neurons + own.lowerBound, y_stride: neurons.count, rows: chunk.count,
                inputs: hidden, outputs: own.count, activation: configuration.activation.cpuCode)
            kernels.linear(&fc1)
            var fc2 = tandem_linear_transposed(
                x: scratch.neurons + own.lowerBound, x_stride: neurons.count,
                weights: mlp.fc2 + first * hidden, y: scratch.partial(worker: worker), y_stride: hidden,
                rows: chunk.count, inputs: own.count, outputs: hidden)
            kernels.linear_transposed(&fc2)
        }
        let isAlone = weights.layers[block.layer].mlp.isEmpty
        join(chunk, bias: isAlone ? mlp.fc2Bias : nil, worker, hasInput)
    }

    private func computeLogits(_ chunk: Range<Int>, _ worker: Int) {
        let width = configuration.embeddingSize
        let columns = part(of: rows.count, worker)
        let table = weights.tokenTable
        let first = table.hostBase! + (rows.lowerBound - table.host.lowerBound) * table.rowByteCount
        var operation = tandem_linear(
            x: blockInput(chunk, width: width, worker), x_stride: width,
            weights: first.assumingMemoryBound(to: UInt16.self) + columns.lowerBound * width, bias: nil,
            y: answer + chunk.lowerBound * rows.count + columns.lowerBound, y_stride: rows.count,
            rows: chunk.count, inputs: width, outputs: columns.count, activation: TANDEM_IDENTITY)
        kernels.linear(&operation)
    }

    /// The rows of the block's input in fp32. Every worker converts them for itself: it takes less time than a meeting.
    private func blockInput(_ chunk: Range<Int>, width: Int, _ worker: Int) -> UnsafePointer<Float> {
        let x = scratch.normalized(worker: worker)
        let input = link.input.assumingMemoryBound(to: UInt16.self) + chunk.lowerBound * width
        kernels.float_from_half(input, x, chunk.count * width)
        return UnsafePointer(x)
    }

    /// Adds the workers' sums up in the answer, each worker some of the columns.
    private func join(_ chunk: Range<Int>, bias: UnsafePointer<Float>?, _ worker: Int, _ hasInput: Bool) {
        barrier.wait()
        if !hasInput { return }
        let hidden = configuration.hiddenSize
        let columns = part(of: hidden, worker)
        let x = answer + chunk.lowerBound * hidden + columns.lowerBound
        for row in 0..<chunk.count { (x + row * hidden).update(repeating: 0, count: columns.count) }
        var join = tandem_join(
            x: x, x_stride: hidden, bias: bias.map { $0 + columns.lowerBound },
            partials: scratch.partial(worker: 0) + columns.lowerBound, partial_stride: scratch.partialStride,
            row_stride: hidden, partial_count: workers.pool.activeCount, rows: chunk.count,
            width: columns.count)
        kernels.join(&join)
    }

    private var answer: UnsafeMutablePointer<Float> { link.answer.assumingMemoryBound(to: Float.self) }

    /// The part of `count` that a worker computes. Cache lines of fp32 results are not divided.
    private func part(of count: Int, _ worker: Int) -> Range<Int> {
        share(of: count, worker: worker, of: workers.pool.activeCount, multiple: 16)
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
