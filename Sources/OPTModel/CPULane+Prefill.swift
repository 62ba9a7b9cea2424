import CPUKernels
import HostRuntime

/// The way of many rows through a layer: matrix products, in which a thread computes a range of columns for all rows.
extension CPULane {
    func prefillAttention(_ shard: LayerShard, _ index: Int, _ step: Step, _ worker: Int) {
        let rowCount = step.batch.rowCount
        let hidden = configuration.hiddenSize
        let width = shard.heads.count * configuration.headDimension
        let attention = shard.attention

        packBlockInput(attention.norm, step, worker)
        let columns = gemmPart(of: 3 * width, worker)
        attention.qkv.multiply(
            packedRows(rowCount, inputs: hidden, worker), outputs: columns, of: 3 * width,
            bias: attention.qkvBias, y: scratch.qkv, yStride: 3 * width, activation: TANDEM_IDENTITY, kernels)
        scaleQueries(in: columns, width: width, rowCount: rowCount)
        pool.barrier.wait()

        attendAll(shard, layer: index, step, worker)
        pool.barrier.wait()

        pack(scratch.attended, width: width, step, worker)
        addProduct(
            attention.output, inputs: width, bias: attention.outputBias, norm: attention.norm, step, worker)
    }

    func prefillMLP(_ mlp: MLPWeights, neuronCount: Int, _ step: Step, _ worker: Int) {
        let hidden = configuration.hiddenSize
        packBlockInput(mlp.norm, step, worker)
        let neurons = gemmPart(of: neuronCount, worker)
        mlp.fc1.multiply(
            packedRows(step.batch.rowCount, inputs: hidden, worker), outputs: neurons, of: neuronCount,
            bias: mlp.fc1Bias, y: scratch.neurons, yStride: neuronCount, activation: activation, kernels)
        pool.barrier.wait()
        pack(scratch.neurons, width: neuronCount, step, worker)
        addProduct(mlp.fc2, inputs: neuronCount, bias: mlp.fc2Bias, norm: mlp.norm, step, worker)
    }

    /// residual += packed · weights + bias, with `weights` [inputs, hidden] turned over.
    private func addProduct(
        _ weights: LayerMatrix, inputs: Int, bias: UnsafePointer<Float>?, norm: LayerNormWeights,
        _ step: Step, _ worker: Int
    ) {
        let hidden = configuration.hiddenSize
        let columns = gemmPart(of: hidden, worker)
        if inputs == 0 {
            // The sum over nothing: other processes have all heads.
            for row in 0..<step.batch.rowCount {
                (scratch.blockSum + row * hidden + columns.lowerBound)
                    .update(repeating: 0, count: columns.count)
            }
        }
        weights.multiply(
            packedRows(step.batch.rowCount, inputs: inputs, worker), outputs: columns, of: hidden, bias: nil,
            y: scratch.blockSum, yStride: hidden, activation: TANDEM_IDENTITY, kernels)
        var join = tandem_join(
            x: scratch.residual + columns.lowerBound, x_stride: hidden,
            bias: bias.map { $0 + columns.lowerBound },
            partials: scratch.blockSum + columns.lowerBound, partial_stride: 0, row_stride: hidden,
            partial_count: 1, rows: step.batch.rowCount, width: columns.count)
        if hasGroup {
            // The process's own sum first, then that of all.
            if let bias {
                for row in 0..<step.batch.rowCount {
                    let sum = scratch.blockSum + row * hidden
                    for column in columns { sum[column] += bias[column] }
                }
            }
            meet(scratch.blockSum, count: step.batch.rowCount * hidden, worker)
            join.bias = nil
        }
        kernels.join(&join)
        pool.barrier.wait()
        if !configuration.normalizesBefore { normalizeResidual(norm, step, worker) }
    }

    /// Normalizes and packs the residual stream, each worker some panels of rows.
    private func packBlockInput(_ norm: LayerNormWeights, _ step: Step, _ worker: Int) {
        guard configuration.normalizesBefore else {
            pack(scratch.residual, width: configuration.hiddenSize, step, worker)
            return
        }
        let hidden = configuration.hiddenSize
        let rows = panelRows(of: step.batch.rowCount, worker)
        let normalized = scratch.blockSum + rows.lowerBound * hidden
        normalize(
            scratch.residual + rows.lowerBound * hidden, norm, to: normalized, rowCount: rows.count)
        kernels.pack_rows(
            normalized, hidden, rows.count, hidden, scratch.packed + rows.lowerBound * hidden)
        pool.barrier.wait()
    }

    /// Packs x [rows, width], each worker some panels of rows.
    private func pack(_ x: UnsafePointer<Float>, width: Int, _ step: Step, _ worker: Int) {
        let rows = panelRows(of: step.batch.rowCount, worker)
        kernels.pack_rows(
            x + rows.lowerBound * width, width, rows.count, width, scratch.packed + rows.lowerBound * width)
        pool.barrier.wait()
    }

    private func packedRows(_ rowCount: Int, inputs: Int, _ worker: Int) -> LayerMatrix.ManyRows {
        LayerMatrix.ManyRows(
            packed: UnsafePointer(scratch.packed), rowCount: rowCount, inputs: inputs,
            scratch: scratch.gemm(worker: worker))
    }

    /// A worker's columns, in whole panels.
    private func gemmPart(of count: Int, _ worker: Int) -> Range<Int> {
        share(
            of: count, worker: worker, of: pool.activeCount,
            multiple: max(16, kernels.gemm_panel_columns))
    }

    /// A worker's rows, in whole panels: a panel p begins at `packed` + p · panel rows · width.
    private func panelRows(of rowCount: Int, _ worker: Int) -> Range<Int> {
        share(of: rowCount, worker: worker, of: pool.activeCount, multiple: kernels.gemm_panel_rows)
    }
}
