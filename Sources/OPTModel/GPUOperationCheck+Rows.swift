import CUDAKernelImage

/// What is done to whole rows: the embedding, layer norm, and the product that normalizes its input itself.
extension GPUOperationCase {
    // MARK: Embedding

    static let embedCases: [GPUOperationCase] = [
        embed(rows: 1, hidden: 768), embed(rows: 7, hidden: 36), embed(rows: 33, hidden: 1000),
        embed(rows: 1, hidden: 1024, embedding: 512), embed(rows: 9, hidden: 100, embedding: 300),
    ]

    /// With an `embedding` of another width, the token's row is only gathered.
    private static func embed(rows: Int, hidden: Int, embedding: Int? = nil) -> GPUOperationCase {
        let sizes =
            "\(rows) \(rows == 1 ? "row" : "rows") of \(hidden)"
            + (embedding.map { ", gathered \($0)" } ?? "")
        return GPUOperationCase(operation: .embed, sizes: sizes) { workbench in
            let width = embedding ?? hidden
            let tableRowCount = 50
            let tokenTable = workbench.random.halves(tableRowCount * width)
            let positionTable = workbench.random.halves(tableRowCount * hidden)
            let tokens = (0..<rows).map { _ in workbench.random.index(below: tableRowCount) }
            let positions = (0..<rows).map { _ in workbench.random.index(below: tableRowCount) }
            let tokenAddress = try workbench.upload(tokenTable)
            let positionAddress = try workbench.upload(positionTable)
            let rowList = (0..<rows).map { row in
                tandem_gpu_row(
                    cache: 0, host_cache: 0, token_row: tokenAddress + UInt64(tokens[row] * width * 2),
                    position_row: positionAddress + UInt64(positions[row] * hidden * 2), capacity: 0,
                    position: Int32(positions[row]))
            }
            let residual = try workbench.reserve(rows * hidden, of: Float.self)
            let gathered = embedding == nil ? 0 : try workbench.reserve(rows * width, of: Float16.self)
            let arguments = tandem_gpu_embed(
                rows: try workbench.upload(rowList), residual: residual, gathered: gathered,
                hidden: UInt32(hidden), embedding: UInt32(width))
            return Trial {
                try workbench.kernels.embed(arguments, rowCount: rows, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(residual, rows * hidden, of: Float.self)
                for row in 0..<rows {
                    for i in 0..<hidden {
                        let token = embedding == nil ? Double(tokenTable[tokens[row] * width + i]) : 0
                        deviation.add(
                            Double(found[row * hidden + i]),
                            token + Double(positionTable[positions[row] * hidden + i]))
                    }
                }
                guard embedding != nil else { return deviation }
                let copies = try workbench.download(gathered, rows * width, of: Float16.self)
                for row in 0..<rows {
                    let expected = tokenTable[tokens[row] * width..<(tokens[row] + 1) * width]
                    deviation.note(
                        "a gathered row is not the token's",
                        unless: copies[row * width..<(row + 1) * width].elementsEqual(expected))
                }
                return deviation
            }
        }
    }

    // MARK: Layer norm

    private struct NormVariant {
        var hidden: Int
        var rows: Int
        var isAffine = true
        var keeps = false
        var isIndexed = false
        var normalizes = true

        var text: String {
            let count = "\(rows) \(rows == 1 ? "row" : "rows") of \(hidden)"
            return count + (isAffine ? "" : ", no affine") + (isIndexed ? ", by row indices" : "")
                + (normalizes ? "" : ", rounded only")
        }
    }

    static let layerNormCases: [GPUOperationCase] = {
        var variants: [NormVariant] = []
        for hidden in [36, 768, 1000, 12288] {
            variants.append(NormVariant(hidden: hidden, rows: 1))
            variants.append(NormVariant(hidden: hidden, rows: 5, isAffine: false))
            variants.append(NormVariant(hidden: hidden, rows: 3, keeps: true))
            variants.append(NormVariant(hidden: hidden, rows: 4, isIndexed: true))
            variants.append(NormVariant(hidden: hidden, rows: 2, normalizes: false))
        }
        return variants.map(layerNorm)
    }()

    private static func layerNorm(_ norm: NormVariant) -> GPUOperationCase {
        GPUOperationCase(operation: norm.keeps ? .layerNormKept : .layerNorm, sizes: norm.text) { workbench in
            let hidden = norm.hidden
            // Rows that a place in the list of indices chooses, in no order.
            let sourceCount = norm.isIndexed ? 2 * norm.rows + 1 : norm.rows
            let sources = (0..<norm.rows).map { norm.isIndexed ? sourceCount - 1 - 2 * $0 : $0 }
            let initial = workbench.random.floats(sourceCount * hidden, scale: 3).map { $0 + 0.5 }
            let weight = norm.isAffine ? workbench.random.floats(hidden).map { $0 + 1 } : nil
            let bias = norm.isAffine ? workbench.random.floats(hidden) : nil
            let x = try workbench.upload(initial)
            let y = try workbench.reserve(norm.rows * hidden, of: Float16.self)
            let epsilon = OPTConfiguration.layerNormEpsilon
            let arguments = tandem_gpu_layer_norm(
                x: x, y: y, weight: try weight.map(workbench.upload) ?? 0,
                bias: try bias.map(workbench.upload) ?? 0,
                row_indices: norm.isIndexed ? try workbench.upload(sources.map { UInt32($0) }) : 0,
                hidden: UInt32(hidden), normalize: norm.normalizes ? 1 : 0, keep: norm.keeps ? 1 : 0,
                epsilon: epsilon)
            return Trial {
                try workbench.kernels.layerNorm(arguments, rowCount: norm.rows, on: workbench.stream)
            } judge: {
                let rounded = try workbench.download(y, norm.rows * hidden, of: Float16.self)
                let left = try workbench.download(x, sourceCount * hidden, of: Float.self)
                var deviation = Deviation()
                var roundedDeviation = Deviation()
                for (row, source) in sources.enumerated() {
                    let expected =
                        norm.normalizes
                        ? ScalarReference.layerNorm(
                            initial, at: source * hidden, width: hidden, weight: weight, bias: bias,
                            epsilon: epsilon)
                        : initial[source * hidden..<(source + 1) * hidden].map { Double($0) }
                    for i in 0..<hidden {
                        deviation.add(Double(left[source * hidden + i]), expected[i])
                        roundedDeviation.add(Double(rounded[row * hidden + i]), expected[i])
                    }
                }
                if norm.keeps {
                    let error = roundedDeviation.error ?? .infinity
                    deviation.note(
                        "the fp16 result's error is \(error)",
                        unless: error <= GPUOperation.layerNorm.tolerance)
                    return deviation
                }
                roundedDeviation.note("its input was changed", unless: left == initial)
                return roundedDeviation
            }
        }
    }

    // MARK: Layer norm and product

    static let linearNormalizedCases: [GPUOperationCase] = {
        var sizes: [ProductSizes] = []
        for rows in [1, 2] {
            for (inputs, outputs) in [(48, 36), (768, 211), (1000, 1000), (4096, 100), (12288, 64)] {
                sizes.append(ProductSizes(rows: rows, inputs: inputs, outputs: outputs))
            }
        }
        return sizes.enumerated().map { linearNormalized(ProductVariant($1, number: $0)) }
    }()

    private static func linearNormalized(_ product: ProductVariant) -> GPUOperationCase {
        GPUOperationCase(operation: .linearNormalized, sizes: product.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            let residual = workbench.random.floats(rows * inputs, scale: 3)
            let weight = product.hasBias ? workbench.random.floats(inputs).map { $0 + 1 } : nil
            let bias = product.hasBias ? workbench.random.floats(inputs) : nil
            let epsilon = OPTConfiguration.layerNormEpsilon
            var data = ProductData(product, &workbench.random)
            data.replaceInputs { row in
                ScalarReference.layerNorm(
                    residual, at: row * inputs, width: inputs, weight: weight, bias: bias, epsilon: epsilon)
            }
            let judged = data
            let stride = outputs + 8
            let y = try workbench.reserve(rows * stride, of: Float16.self)
            let arguments = tandem_gpu_linear(
                x: 0, weights: try workbench.upload(data.weights),
                bias: try data.bias.map(workbench.upload) ?? 0, y: y, x_stride: UInt32(inputs),
                y_stride: UInt32(stride), rows: UInt32(rows), inputs: UInt32(inputs),
                outputs: UInt32(outputs),
                activation: data.activation, y_is_float: 0, is_resident: product.isResident ? 1 : 0,
                residual: try workbench.upload(residual),
                norm_weight: try weight.map(workbench.upload) ?? 0,
                norm_bias: try bias.map(workbench.upload) ?? 0, epsilon: epsilon, limit: .init())
            return Trial {
                try workbench.kernels.linear(arguments, on: workbench.stream)
            } judge: {
                judged.judge(try workbench.download(y, rows * stride, of: Float16.self), stride: stride)
            }
        }
    }
}
