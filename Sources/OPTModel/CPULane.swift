import CPUKernels
import Collectives
import HostRuntime

/// The lane that computes on the processor: a pool of pinned threads that walk the layers in lock step.
///
/// Each thread is a lane of its own within it: it takes a range of heads' rows and of neurons, and the sum of all
/// threads' results ends the block. Few rows (decode) are bound by reading the weights, many rows (prefill) by
/// arithmetic, and each has its own way through a layer.
///
/// In a group of processes it computes its part of the model (`CPULane+Group.swift`): each block ends in a sum over the
/// processes too, and rank 0 gets all of the logits.
/// Sendable, because `step` is written only while the workers wait.
public final class CPULane: Lane, WorkerTask, @unchecked Sendable {
    let weights: OPTWeights
    let configuration: OPTConfiguration
    let kernels: tandem_cpu_kernels
    let pool: WorkerPool
    let shares: WorkShares
    let scratch: CPUScratch
    /// The most rows of a step.
    public let rowCapacity: Int
    public var segmentCapacity: Int { rowCapacity }
    public var logitsCapacity: Int { rowCapacity }
    private var step: Step?
    /// The part of a model that this is; nil for a whole one.
    let group: GroupPart?
    /// Asked by all workers: a reference that they counted at the same time would cost microseconds.
    let hasGroup: Bool
    /// The token of the table's first row.
    let firstToken: Int
    /// What kept the processes from meeting, in the present step or an earlier one.
    var groupError: CollectiveError?
    /// What a test lets go wrong.
    public var testFault: TestFault?
    /// For the most rows that a cache was made for.
    private var logits: Logits?

    private final class Logits {
        let rowCount: Int
        /// [rows, vocabulary], where this process gets all; [rows, its part of the vocabulary] of its own.
        let all, own: UnsafeMutablePointer<Float>
        private let buffer: HostBuffer

        init(_ rowCount: Int, vocabularySize: Int, part: Int, isConductor: Bool) throws(HostMemoryError) {
            self.rowCount = rowCount
            let allCount = isConductor ? rowCount * vocabularySize : 0
            let isWhole = part == vocabularySize
            let count = allCount + (isWhole ? 0 : rowCount * part)
            buffer = try HostBuffer(byteCount: count * MemoryLayout<Float>.size)
            all = buffer.pointer()
            own = isWhole ? all : all + allCount
        }
    }

    /// The most rows of a step. More would not make prefill faster: the weights are already read for hundreds of
    /// rows at once.
    public static let mostRows = 512

    /// What one pass through the layers works on.
    struct Step {
        let batch: StepBatch
        let cache: KVCache
        /// [logits rows, vocabulary]; nothing where another process has them.
        let logits: UnsafeMutablePointer<Float>
        /// [logits rows, this process's rows of the vocabulary]
        let ownLogits: UnsafeMutablePointer<Float>
    }

    /// - Parameter group: the part of a model that the weights are; nil where they are all.
    public init(
        _ weights: OPTWeights, group: GroupPart? = nil, pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>, rowCapacity: Int = mostRows
    ) throws(HostMemoryError) {
        precondition(
            group == nil || group!.shard.configuration == weights.configuration,
            "CPULane: these are not the weights of rank \(group!.place.rank)")
        self.group = group
        hasGroup = group != nil
        firstToken = group?.shard.tokens.lowerBound ?? 0
        self.weights = weights
        configuration = weights.configuration
        self.kernels = kernels.pointee
        self.pool = pool
        self.rowCapacity = rowCapacity
        shares = WorkShares(mostWorkers: pool.workerCount)
        scratch = try CPUScratch(
            weights.configuration, rowCapacity: rowCapacity, workerCount: pool.workerCount,
            kernels: kernels.pointee)
    }

    public func makeCache(capacities: [Int], logitsCount: Int) throws(ModelError) -> any LaneCache {
        do {
            let rowCount = min(rowCapacity, max(capacities.count, logitsCount))
            if (logits?.rowCount ?? 0) < rowCount {
                logits = try Logits(
                    rowCount, vocabularySize: vocabularySize, part: configuration.vocabularySize,
                    isConductor: isConductor)
            }
            return try KVCache(
                configuration, heads: 0..<configuration.headCount, capacities: capacities, pool: pool)
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Called on the pool's leader thread; allocates nothing. Tokens are chosen by the caller.
    public func compute(
        _ batch: StepBatch, cache: any LaneCache,
        _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws(ModelError) {
        precondition(batch.rowCount <= rowCapacity, "CPULane: \(batch.rowCount) rows of \(rowCapacity)")
        if batch.rowCount == 0 { return }
        let logits = logits!
        step = Step(
            batch: batch, cache: unsafeDowncast(cache, to: KVCache.self), logits: logits.all,
            ownLogits: logits.own)
        if batch.rowCount == batch.segmentCount { testFault?.beginStep() }
        shares.divide(among: pool.undisturbedCount, moveCount: pool.moveCount)
        pool.runUndisturbed(withTestFault())
        if pool.hasLostWorker {
            // Should it wake up after all, it must find what it was at work on.
            _ = Unmanaged.passRetained(step!.cache)
            throw ModelError.stoppedWorker
        }
        step = nil
        if let groupError { throw ModelError(.group, groupError.description) }
        if !isConductor { return }
        batch.deliver(logits.all, vocabularySize: vocabularySize, body)
    }

    public func run(worker: Int) {
        let step = step!
        embed(step, worker)
        let isDecode = step.batch.rowCount <= CPUScratch.fewRows
        for index in weights.layers.indices {
            let layer = weights.layers[index]
            if isDecode {
                decodeAttention(layer, index, step, worker)
                decodeMLP(layer.mlp, neuronCount: layer.neurons.count, step, worker)
            } else {
                prefillAttention(layer, index, step, worker)
                prefillMLP(layer.mlp, neuronCount: layer.neurons.count, step, worker)
            }
        }
        computeLogits(step, worker)
    }

    /// The part of `count` that a worker computes. Cache lines of fp32 results are not divided.
    func part(of count: Int, _ worker: Int) -> Range<Int> {
        shares.part(of: count, worker: worker, multiple: 16)
    }

    /// Does what falls to a worker of a product's `count` columns or inputs.
    func work(
        on count: Int, unit: Int = WorkShares.productUnit, _ worker: Int,
        _ body: (_ run: Range<Int>, _ isFirst: Bool) -> Void
    ) {
        shares.work(on: count, worker: worker, multiple: unit, body)
    }

    /// Post-norm models normalize the residual stream behind each block, each worker some of the rows.
    func normalizeResidual(_ norm: LayerNormWeights, _ step: Step, _ worker: Int) {
        let rows = share(of: step.batch.rowCount, worker: worker, of: pool.activeCount)
        let x = scratch.residual + rows.lowerBound * configuration.hiddenSize
        normalize(x, norm, to: x, rowCount: rows.count)
        pool.barrier.wait()
    }

    /// [rows, hidden] to [rows, hidden]; `y` may be `x`.
    func normalize(
        _ x: UnsafePointer<Float>, _ norm: LayerNormWeights, to y: UnsafeMutablePointer<Float>, rowCount: Int
    ) {
        let hidden = configuration.hiddenSize
        var operation = tandem_layer_norm(
            x: x, x_stride: hidden, y: y, y_stride: hidden, weight: norm.weight, bias: norm.bias,
            rows: rowCount, width: hidden, epsilon: OPTConfiguration.layerNormEpsilon)
        kernels.layer_norm(&operation)
    }

    /// Stores a segment's keys and values of one head and computes the head's attention for all its rows.
    func attend(
        _ segment: StepBatch.Segment, head: Int, layer: Int, shard: LayerShard, _ step: Step, _ worker: Int
    ) {
        let headDimension = configuration.headDimension
        let width = shard.heads.count * headDimension
        let column = (head - shard.heads.lowerBound) * headDimension
        let qkv = scratch.qkv + segment.firstRow * 3 * width + column
        let keys = step.cache.keys(layer: layer, sequence: segment.sequence, head: head)
        let values = step.cache.values(layer: layer, sequence: segment.sequence, head: head)
        let form = CacheForm(configuration)
        for row in 0..<segment.rowCount {
            let source = qkv + row * 3 * width
            let position = segment.firstPosition + row
            form.store(source + width, in: keys, position: position, kernels)
            form.store(source + 2 * width, in: values, position: position, kernels)
        }
        var operation = tandem_attention(
            queries: qkv, query_stride: 3 * width, keys: keys, values: values,
            out: scratch.attended + segment.firstRow * width + column, out_stride: width,
            query_count: segment.rowCount, head_dim: headDimension, first_position: segment.firstPosition,
            scratch: scratch.attention(worker: worker), cache_bits: form.bits)
        kernels.attention(&operation)
    }

    /// Attention of all segments and heads, an equal number of pairs for each worker.
    func attendAll(_ shard: LayerShard, layer: Int, _ step: Step, _ worker: Int) {
        let headCount = shard.heads.count
        let pairs = share(of: step.batch.segmentCount * headCount, worker: worker, of: pool.activeCount)
        for pair in pairs {
            attend(
                step.batch.segments[pair / headCount], head: shard.heads.lowerBound + pair % headCount,
                layer: layer, shard: shard, step, worker)
        }
    }

    /// Scales the columns of [rows, 3, width] that hold queries, within `columns`.
    func scaleQueries(in columns: Range<Int>, width: Int, rowCount: Int) {
        let queries = columns.clamped(to: 0..<width)
        let scale = configuration.queryScale
        for row in 0..<rowCount {
            let x = scratch.qkv + row * 3 * width
            for column in queries { x[column] *= scale }
        }
    }

    var activation: tandem_activation {
        switch configuration.activation {
        case .relu: TANDEM_RELU
        case .gelu: TANDEM_GELU
        }
    }
}
