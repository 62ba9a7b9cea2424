import CPUKernels
import HostRuntime

/// The way of few rows through a layer: every weight is read once, by one thread, in order.
extension CPULane {
    func decodeAttention(_ shard: LayerShard, _ index: Int, _ step: Step, _ worker: Int) {
        let rowCount = step.batch.rowCount
        let width = shard.heads.count * configuration.headDimension
        let attention = shard.attention

        let x = blockInput(attention.norm, attention.qkv.form, rowCount, worker)
        work(on: 3 * width, unit: attention.qkv.form.unit, worker) { columns, _ in
            attention.qkv.multiply(
                x, outputs: columns, bias: attention.qkvBias, y: scratch.qkv, yStride: 3 * width,
                activation: TANDEM_IDENTITY, kernels)
            scaleQueries(in: columns, width: width, rowCount: rowCount)
        }
        pool.barrier.wait()

        attendAll(shard, layer: index, step, worker)
        pool.barrier.wait()

        work(on: width, unit: attention.output.form.unit, worker) { inputs, isFirst in
            attention.output.multiplyTransposed(
                scratch.attended, stride: width, rowCount: rowCount, inputs: inputs,
                y: scratch.partial(worker: worker), accumulates: !isFirst,
                groups: scratch.inputGroups(worker: worker), kernels)
        }
        joinPartials(attention.outputBias, attention.norm, step, worker)
    }

    /// fc1 and fc2 of a thread's neurons without a meeting between them.
    func decodeMLP(_ mlp: MLPWeights, neuronCount: Int, _ step: Step, _ worker: Int) {
        let rowCount = step.batch.rowCount
        let x = blockInput(mlp.norm, mlp.fc1.form, rowCount, worker)
        work(on: neuronCount, unit: mlp.fc2.form.unit, worker) { neurons, isFirst in
            mlp.fc1.multiply(
                x, outputs: neurons, bias: mlp.fc1Bias, y: scratch.neurons, yStride: neuronCount,
                activation: activation, kernels)
            mlp.fc2.multiplyTransposed(
                scratch.neurons, stride: neuronCount, rowCount: rowCount, inputs: neurons,
                y: scratch.partial(worker: worker), accumulates: !isFirst,
                groups: scratch.inputGroups(worker: worker), kernels)
        }
        joinPartials(mlp.fc2Bias, mlp.norm, step, worker)
    }

    /// The block's input, normalized where the norm stands before the block, and made ready for the block's first product.
    /// Every worker does it for itself: it takes less time than a meeting after one of them had done it.
    private func blockInput(
        _ norm: LayerNormWeights, _ form: MatrixForm, _ rowCount: Int, _ worker: Int
    ) -> LayerMatrix.Activations {
        var x = UnsafePointer(scratch.residual)
        if configuration.normalizesBefore {
            let y = scratch.normalized(worker: worker)
            normalize(scratch.residual, norm, to: y, rowCount: rowCount)
            x = UnsafePointer(y)
        }
        let hidden = configuration.hiddenSize
        return LayerMatrix.prepare(
            x, stride: hidden, rowCount: rowCount, inputs: hidden, for: form,
            groups: scratch.groups(worker: worker), kernels)
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
