import CPUKernels
import HostRuntime

/// The way of few rows through a layer: every weight is read once, by one thread, in order.
extension CPULane {
    func decodeAttention(_ shard: LayerShard, _ index: Int, _ step: Step, _ worker: Int) {
        let rowCount = step.batch.rowCount
        let hidden = configuration.hiddenSize
        let width = shard.heads.count * configuration.headDimension
        let attention = shard.attention

        let x = blockInput(attention.norm, rowCount, worker)
        work(on: 3 * width, worker) { columns, _ in
            var qkv = tandem_linear(
                x: x, x_stride: hidden,
                weights: attention.qkv + columns.lowerBound * hidden,
                bias: attention.qkvBias.map { $0 + columns.lowerBound },
                y: scratch.qkv + columns.lowerBound, y_stride: 3 * width,
                rows: rowCount, inputs: hidden, outputs: columns.count, activation: TANDEM_IDENTITY)
            kernels.linear(&qkv)
            scaleQueries(in: columns, width: width, rowCount: rowCount)
        }
        pool.barrier.wait()

        attendAll(shard, layer: index, step, worker)
        pool.barrier.wait()

        work(on: width, worker) { inputs, isFirst in
            var output = tandem_linear_transposed(
                x: scratch.attended + inputs.lowerBound, x_stride: width,
                weights: attention.output + inputs.lowerBound * hidden,
                y: scratch.partial(worker: worker), y_stride: hidden,
                rows: rowCount, inputs: inputs.count, outputs: hidden, accumulate: isFirst ? 0 : 1)
            kernels.linear_transposed(&output)
        }
        joinPartials(attention.outputBias, attention.norm, step, worker)
    }

    /// fc1 and fc2 of a thread's neurons without a meeting between them.
    func decodeMLP(_ mlp: MLPWeights, neuronCount: Int, _ step: Step, _ worker: Int) {
        let hidden = configuration.hiddenSize
        let rowCount = step.batch.rowCount
        let x = blockInput(mlp.norm, rowCount, worker)
        work(on: neuronCount, worker) { neurons, isFirst in
            var fc1 = tandem_linear(
                x: x, x_stride: hidden,
                weights: mlp.fc1 + neurons.lowerBound * hidden,
                bias: mlp.fc1Bias.map { $0 + neurons.lowerBound },
                y: scratch.neurons + neurons.lowerBound, y_stride: neuronCount,
                rows: rowCount, inputs: hidden, outputs: neurons.count, activation: activation)
            kernels.linear(&fc1)
            var fc2 = tandem_linear_transposed(
                x: scratch.neurons + neurons.lowerBound, x_stride: neuronCount,
                weights: mlp.fc2 + neurons.lowerBound * hidden,
                y: scratch.partial(worker: worker), y_stride: hidden,
                rows: rowCount, inputs: neurons.count, outputs: hidden, accumulate: isFirst ? 0 : 1)
            kernels.linear_transposed(&fc2)
        }
        joinPartials(mlp.fc2Bias, mlp.norm, step, worker)
    }

    /// The block's input, normalized where the norm stands before the block. Every worker normalizes for itself:
    /// it takes less time than a meeting after one of them had done it.
    private func blockInput(_ norm: LayerNormWeights, _ rowCount: Int, _ worker: Int) -> UnsafePointer<Float>
    {
        guard configuration.normalizesBefore else { return UnsafePointer(scratch.residual) }
        let y = scratch.normalized(worker: worker)
        normalize(scratch.residual, norm, to: y, rowCount: rowCount)
        return UnsafePointer(y)
    }

    /// Adds the workers' shares of a block's sum to the residual stream, each worker some of the columns.
    private func joinPartials(
        _ bias: UnsafePointer<Float>?, _ norm: LayerNormWeights, _ step: Step, _ worker: Int
    ) {
        pool.barrier.wait()
        let hidden = configuration.hiddenSize
        let rowCount = step.batch.rowCount
        let columns = part(of: hidden, worker)
        var join = tandem_join(
            x: scratch.residual + columns.lowerBound, x_stride: hidden,
            bias: bias.map { $0 + columns.lowerBound },
            partials: scratch.partial(worker: 0) + columns.lowerBound, partial_stride: scratch.partialStride,
            row_stride: hidden, partial_count: pool.activeCount, rows: rowCount, width: columns.count)
        if hasGroup {
            // The process's own sum first, then that of all.
            var own = join
            own.x = scratch.blockSum + columns.lowerBound
            for row in 0..<rowCount { (own.x + row * hidden).update(repeating: 0, count: columns.count) }
            kernels.join(&own)
            meet(scratch.blockSum, count: rowCount * hidden, worker)
            join.partials = UnsafePointer(own.x)
            join.partial_count = 1
            join.bias = nil
        }
        kernels.join(&join)
        pool.barrier.wait()
        if !configuration.normalizesBefore { normalizeResidual(norm, step, worker) }
    }
}
