import CPUKernels
import HostRuntime

/// What stands before the first layer and behind the last one.
extension CPULane {
    /// residual[r, :] = token embedding (projected where it is narrow) + position embedding
    func embed(_ step: Step, _ worker: Int) {
        let hidden = configuration.hiddenSize
        let width = configuration.embeddingSize
        let embedding = weights.embedding
        let rows = share(of: step.batch.rowCount, worker: worker, of: pool.activeCount)
        for row in rows {
            let token = embedding.tokens + Int(step.batch.tokens[row]) * width
            if embedding.projectIn != nil {
                kernels.float_from_half(token, scratch.narrow + row * width, width)
            } else {
                kernels.embed(token, position(step, row), scratch.residual + row * hidden, hidden)
            }
        }
        pool.barrier.wait()
        guard let projectIn = embedding.projectIn else { return }

        let columns = part(of: hidden, worker)
        project(
            scratch.narrow, projectIn, inputs: width, columns: columns, outputs: hidden, to: scratch.residual,
            rowCount: step.batch.rowCount)
        pool.barrier.wait()
        for row in rows {
            let x = scratch.residual + row * hidden
            let table = scratch.blockSum + row * hidden
            kernels.float_from_half(position(step, row), table, hidden)
            for column in 0..<hidden { x[column] += table[column] }
        }
        pool.barrier.wait()
    }

    /// Final norm, projection and the vocabulary, for the rows whose logits are wanted and no others.
    func computeLogits(_ step: Step, _ worker: Int) {
        let batch = step.batch
        if batch.logitsCount == 0 { return }
        let hidden = configuration.hiddenSize
        let width = configuration.embeddingSize
        let embedding = weights.embedding
        for index in share(of: batch.logitsCount, worker: worker, of: pool.activeCount) {
            let x = scratch.residual + Int(batch.logitsRows[index]) * hidden
            let y = scratch.blockSum + index * hidden
            if configuration.hasFinalLayerNorm {
                normalize(x, embedding.finalNorm, to: y, rowCount: 1)
            } else {
                y.update(from: x, count: hidden)
            }
        }
        pool.barrier.wait()
        var x = scratch.blockSum
        if let projectOut = embedding.projectOut {
            project(
                x, projectOut, inputs: hidden, columns: part(of: width, worker), outputs: width,
                to: scratch.narrow, rowCount: batch.logitsCount)
            pool.barrier.wait()
            x = scratch.narrow
        }
        let tokenCount = configuration.vocabularySize
        work(on: tokenCount, worker) { columns, _ in
            project(
                x, embedding.tokens, inputs: width, columns: columns, outputs: tokenCount, to: step.logits,
                rowCount: batch.logitsCount)
        }
    }

    private func position(_ step: Step, _ row: Int) -> UnsafePointer<UInt16> {
        weights.embedding.positions
            + (Int(step.batch.positions[row]) + OPTConfiguration.positionOffset) * configuration.hiddenSize
    }

    /// y[:, columns] = x · weights^T, with `weights` [outputs, inputs].
    private func project(
        _ x: UnsafePointer<Float>, _ weights: UnsafePointer<UInt16>, inputs: Int, columns: Range<Int>,
        outputs: Int, to y: UnsafeMutablePointer<Float>, rowCount: Int
    ) {
        var operation = tandem_linear(
            x: x, x_stride: inputs, weights: weights + columns.lowerBound * inputs, bias: nil,
            y: y + columns.lowerBound, y_stride: outputs, rows: rowCount, inputs: inputs,
            outputs: columns.count, activation: TANDEM_IDENTITY)
        kernels.linear(&operation)
    }
}
