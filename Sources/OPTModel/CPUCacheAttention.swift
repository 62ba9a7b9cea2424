import CPUKernels
import CUDA
import HostRuntime
import Synchronization

/// The processor's part of a decode step of the GPU lane: attention of the heads whose cache lies in CPU memory, next
/// to it, instead of over PCIe.
///
/// The pool's threads walk the exchanges of a step in lock step with the GPU. In each they take queries, keys and values
/// of some heads, [rows, 3, heads · head dimension] in fp16, put keys and values into the cache, and give the attended
/// rows back, [rows, heads · head dimension] in fp16. Nothing in it locks or allocates.
final class CPUCacheAttention: CPUPart, @unchecked Sendable {  // `step` is written while the workers wait
    /// Heads of one layer, of one of its pieces, that go to the processor together.
    struct Exchange {
        let number: Int
        let layer: Int
        /// In the whole layer.
        let heads: Range<Int>
        /// Of its layer.
        let isFirst: Bool
    }

    let link: LaneLink
    let workers: CPUWorkers
    /// The heads whose cache lies in CPU memory.
    let heads: Range<Int>
    /// By layer and piece; nil where a piece has no such heads.
    private let exchanges: [[Exchange?]]
    /// In the order of the step.
    private let order: [Exchange]
    private let configuration: OPTConfiguration
    private let cacheForm: CacheForm
    private let kernels: tandem_cpu_kernels
    private let scratch: Scratch
    private let rowCapacity: Int
    private let rows: UnsafeMutablePointer<Row>
    private var step = Step(number: 0, rowCount: 0, positionCount: 0)
    private var timeline: Timeline?
    var isGPUAtWork: @Sendable () -> Bool = { true }
    // On a cache line of its own: arrivals must not disturb the threads that are still at work.
    private let padding: (SIMD16<Int64>, SIMD16<Int64>) = (.zero, .zero)
    private let arrivedCount = Atomic<Int>(0)

    // Plain values: references that all threads count at the same time would cost microseconds.

    private struct Step {
        var number: UInt32
        var rowCount: Int
        /// All that one head reads of the cache: its work.
        var positionCount: Int
    }

    private struct Row {
        /// Of the row's sequence, [layer][key, value][head][capacity][head dimension].
        var cache: UnsafeMutableRawPointer
        var capacity: Int
        var position: Int
    }

    /// - Parameters:
    ///   - pieces: each layer's ranges of heads, in the order in which the GPU computes them.
    ///   - heads: those whose cache lies in CPU memory; at least one.
    ///   - partner: another link of the same steps.
    init(
        _ configuration: OPTConfiguration, pieces: [[Range<Int>]], heads: Range<Int>, workers: CPUWorkers,
        rowCapacity: Int, partner: LaneLink? = nil, context: Context
    ) throws {
        var order: [Exchange] = []
        exchanges = pieces.enumerated().map { layer, pieces in
            pieces.map { piece in
                let shared = piece.clamped(to: heads)
                if shared.isEmpty { return nil }
                order.append(
                    Exchange(
                        number: order.count, layer: layer, heads: shared,
                        isFirst: order.last?.layer != layer))
                return order.last
            }
        }
        self.order = order
        self.heads = heads
        self.configuration = configuration
        cacheForm = CacheForm(configuration)
        self.workers = workers
        self.rowCapacity = rowCapacity
        kernels = workers.kernels.pointee
        let width = order.reduce(0) { max($0, $1.heads.count) } * configuration.headDimension
        link = try LaneLink(
            LaneLink.Shape(
                exchangeCount: order.count, inputByteCount: rowCapacity * 3 * width * 2,
                answerByteCount: rowCapacity * width * 2),
            limits: workers.linkLimits, partner: partner, context: context)
        rows = .allocate(capacity: rowCapacity)
        scratch = try Scratch(
            configuration, workerCount: workers.pool.workerCount, kernels: workers.kernels.pointee)
    }

    deinit { rows.deallocate() }

    /// Which of a piece's heads go to the processor; nil for none.
    func exchange(layer: Int, piece: Int) -> Exchange? { exchanges[layer][piece] }

    /// Whether a layer has any.
    func hasExchanges(layer: Int) -> Bool { exchanges[layer].contains { $0 != nil } }

    // MARK: A step

    func begin(_ batch: StepBatch, cache: GPUKVCache, step number: UInt32, timeline: Timeline?) {
        precondition(
            batch.rowCount <= rowCapacity && batch.rowCount == batch.segmentCount,
            "CPUCacheAttention: \(batch.rowCount) rows of \(rowCapacity), \(batch.segmentCount) sequences")
        step = Step(number: number, rowCount: batch.rowCount, positionCount: 0)
        for row in 0..<batch.rowCount {
            let sequence = batch.segments[row].sequence
            let position = Int(batch.positions[row])
            rows[row] = Row(
                cache: cache.hostPointer(of: sequence), capacity: cache.lineCapacities[sequence],
                position: position)
            step.positionCount += position + 1
        }
        self.timeline = timeline
    }

    var layerCount: Int { configuration.layerCount }

    /// Ends early where the link is aborted.
    func run(worker: Int, layers: Range<Int>) {
        for index in order.indices where layers.contains(order[index].layer) {
            if !take(order[index], worker) { return }
        }
    }

    /// Nobody waits for the leader within an exchange.
    func leave() {}

    /// A worker's part of the exchanges of one layer.
    func run(layer: Int, worker: Int) {
        for piece in exchanges[layer].indices {
            if let exchange = exchanges[layer][piece] { take(exchange, worker) }
        }
    }

    /// A worker's part of one exchange; the worker that is last answers for all.
    ///
    /// - Returns: false where the link is aborted.
    @discardableResult
    func take(_ exchange: Exchange, _ worker: Int) -> Bool {
        let hasInput = link.waitForInput(
            of: exchange.number, step: step.number, isGPUAtWork: { isStepAlive(worker) })
        if !hasInput { return false }
        let start = timeline == nil ? nil : ContinuousClock.now
        attend(exchange, worker)
        let arrived = arrivedCount.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue
        if arrived < workers.pool.activeCount { return true }
        arrivedCount.store(0, ordering: .relaxed)
        link.publishAnswer(of: exchange.number, step: step.number)
        if let start { timeline?.add(.cpu, Self.span, layer: exchange.layer, from: start, to: .now) }
        return true
    }

    /// What a breakdown calls it.
    static let span = "self-attention"

    // MARK: Attention

    /// Row after row and head after head, the pairs are dealt out by how much of the cache they read, which differs
    /// between the rows of a ragged batch: a worker has those that begin within its part of all positions.
    private func attend(_ exchange: Exchange, _ worker: Int) {
        let total = step.positionCount * exchange.heads.count
        let part = share(of: total, worker: worker, of: workers.pool.activeCount)
        var begin = 0
        for row in 0..<step.rowCount {
            let positionCount = rows[row].position + 1
            let end = begin + positionCount * exchange.heads.count
            let first = divideUp(max(part.lowerBound, begin) - begin, positionCount)
            let last = divideUp(max(begin, min(part.upperBound, end)) - begin, positionCount)
            for head in stride(from: first, to: last, by: 1) { attend(exchange, row, head, worker) }
            begin = end
        }
    }

    /// Stores a row's key and value of one head and computes its attention; `head` counts in the exchange.
    private func attend(_ exchange: Exchange, _ row: Int, _ head: Int, _ worker: Int) {
        let headDimension = configuration.headDimension
        let width = exchange.heads.count * headDimension
        let input = link.input.assumingMemoryBound(to: UInt16.self) + row * 3 * width + head * headDimension
        let answer = link.answer.assumingMemoryBound(to: UInt16.self) + row * width + head * headDimension

        let place = rows[row]
        let line = place.capacity * cacheForm.positionByteCount
        let number = 2 * exchange.layer * heads.count + exchange.heads.lowerBound + head - heads.lowerBound
        let keys = place.cache + number * line
        let values = keys + heads.count * line

        let query = scratch.query(worker: worker)
        let result = query + headDimension
        kernels.float_from_half(input + width, result, headDimension)
        cacheForm.store(result, in: keys, position: place.position, kernels)
        kernels.float_from_half(input + 2 * width, result, headDimension)
        cacheForm.store(result, in: values, position: place.position, kernels)
        kernels.float_from_half(input, query, headDimension)
        let scale = configuration.queryScale
        for index in 0..<headDimension { query[index] *= scale }
        var operation = tandem_attention(
            queries: query, query_stride: headDimension, keys: keys, values: values, out: result,
            out_stride: headDimension, query_count: 1, head_dim: headDimension,
            first_position: place.position, scratch: scratch.attention(worker: worker),
            cache_bits: cacheForm.bits)
        kernels.attention(&operation)
        kernels.half_from_float(result, answer, headDimension)
    }

    /// A worker's own memory: a query and its result in fp32, and what the kernel needs.
    private struct Scratch: ~Copyable {
        private let buffer: HostBuffer
        private let rowsCount: Int
        private let stride: Int

        init(_ configuration: OPTConfiguration, workerCount: Int, kernels: tandem_cpu_kernels)
            throws(HostMemoryError)
        {
            rowsCount = divideUp(2 * configuration.headDimension, 16) * 16
            stride =
                rowsCount
                + divideUp(kernels.attention_scratch_count(configuration.maximumPositions), 16) * 16
            buffer = try HostBuffer(byteCount: workerCount * stride * MemoryLayout<Float>.size)
        }

        /// [2, head dimension]
        func query(worker: Int) -> UnsafeMutablePointer<Float> {
            buffer.pointer(at: worker * stride * MemoryLayout<Float>.size)
        }

        func attention(worker: Int) -> UnsafeMutablePointer<Float> { query(worker: worker) + rowsCount }
    }
}
