import CPUKernels
import HostRuntime

/// What stands before the first layer and behind the last one.
extension CPULane {
    /// residual[r, :] = token embedding (projected where it is narrow) + position embedding
    func embed(_ step: Step, _ worker: Int) {
        let hidden = configuration.hiddenSize
        let width = configuration.embeddingSize
        let embedding = weights.embedding
        let rowCount = step.batch.rowCount
        let rows = share(of: rowCount, worker: worker, of: pool.activeCount)
        for row in rows {
            let x = scratch.residual + row * hidden
            let narrow = scratch.narrow + row * width
            let number = Int(step.batch.tokens[row]) - firstToken
            if 0..<configuration.vocabularySize ~= number {
                let token = embedding.tokens + number * width
                if embedding.projectIn == nil {
                    kernels.embed(token, position(step, row), x, hidden)
                } else {
                    kernels.float_from_half(token, narrow, width)
                }
            } else if embedding.projectIn == nil {
                // Another process has the token's row.
                kernels.float_from_half(position(step, row), x, hidden)
            } else {
                narrow.update(repeating: 0, count: width)
            }
        }
        if let projectIn = embedding.projectIn {
            pool.barrier.wait()
            let columns = part(of: hidden, worker)
            project(
                scratch.narrow, projectIn, inputs: width, columns: columns, outputs: hidden,
                to: scratch.residual, rowCount: rowCount)
            pool.barrier.wait()
            for row in rows {
                let x = scratch.residual + row * hidden
                let table = scratch.blockSum + row * hidden
                kernels.float_from_half(position(step, row), table, hidden)
                for column in 0..<hidden { x[column] += table[column] }
            }
        }
        pool.barrier.wait()
        meet(scratch.residual, count: rowCount * hidden, worker)
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
                x, embedding.tokens, inputs: width, columns: columns, outputs: tokenCount, to: step.ownLogits,
                rowCount: batch.logitsCount)
        }
        gatherLogits(step, worker)
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
