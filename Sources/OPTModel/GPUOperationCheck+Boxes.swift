import CUDA
import CUDAKernelImage

/// Products whose weights the copy engine brings, and the layer norm that adds their parts up.
extension GPUOperationCase {
    private static let boxSizes: [ProductSizes] = {
        var sizes: [ProductSizes] = []
        for rows in [2, 8, 9, 24, 32] {
            for (inputs, outputs) in [(40, 96), (96, 40), (768, 1000), (1000, 64), (4096, 208)] {
                sizes.append(ProductSizes(rows: rows, inputs: inputs, outputs: outputs))
            }
        }
        return sizes
    }()

    static let linearBoxesCases =
        boxSizes.enumerated().map { linearBoxes(ProductVariant($1, number: $0), number: $0, isFloat: false) }
        + boxSizes.enumerated().filter { $0.offset % 4 == 1 }.map {
            linearBoxes(ProductVariant($1, number: $0), number: $0, isFloat: true)
        }

    static let linearBoxesTransposedCases = boxSizes.enumerated().map {
        linearBoxesTransposed(ProductVariant($1, number: $0), splits: 1 + $0 % 5)
    }

    private static func boxes(_ workbench: GPUWorkbench) throws -> BoxKernels {
        guard let boxes = workbench.kernels.boxes else {
            throw ModelError(.gpu, "this GPU's image has no such kernel")
        }
        return boxes
    }

    private static func rowsMap(_ data: ProductData, _ workbench: GPUWorkbench) throws -> TensorMap {
        try TensorMap(
            rowsAt: try workbench.upload(data.x), rows: data.rows, inputs: data.inputs, stride: data.xStride,
            rowTiles: divideUp(data.rows, 8), context: workbench.context)
    }

    private static func linearBoxes(_ product: ProductVariant, number: Int, isFloat: Bool)
        -> GPUOperationCase
    {
        let operation: GPUOperation = isFloat ? .linearBoxesToFloat : .linearBoxes
        return GPUOperationCase(operation: operation, sizes: product.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            let boxes = try boxes(workbench)
            let blockOutputs = BoxKernels.blockOutputs[number % 2]
            let data = ProductData(product, &workbench.random)
            let map = try TensorMap(
                boxesOf: blockOutputs, at: try workbench.upload(data.weights), outputs: outputs,
                inputs: inputs,
                context: workbench.context)
            let stride = outputs + 8
            let y =
                isFloat
                ? try workbench.reserve(rows * stride, of: Float.self)
                : try workbench.reserve(rows * stride, of: Float16.self)
            let arguments = tandem_gpu_linear_boxes(
                weights_map: try workbench.upload([map.words]),
                x_map: try workbench.upload([rowsMap(data, workbench).words]),
                bias: try data.bias.map(workbench.upload) ?? 0, y: y, parts: 0, y_stride: UInt32(stride),
                rows: UInt32(rows), inputs: UInt32(inputs), outputs: UInt32(outputs),
                activation: product.activation, y_is_float: isFloat ? 1 : 0, split_count: 1)
            return Trial {
                try boxes.linear(arguments, blockOutputs: blockOutputs, on: workbench.stream)
            } judge: {
                if isFloat {
                    return data.judge(
                        try workbench.download(y, rows * stride, of: Float.self), stride: stride)
                }
                return data.judge(
                    try workbench.download(y, rows * stride, of: Float16.self), stride: stride)
            }
        }
    }

    private static func linearBoxesTransposed(_ product: ProductVariant, splits: Int) -> GPUOperationCase {
        GPUOperationCase(operation: .linearBoxesTransposed, sizes: "\(product.text), \(splits) parts") {
            workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            let boxes = try boxes(workbench)
            var data = ProductData(product, &workbench.random, isTransposed: true, hasBias: false)
            data.activation = 0
            let judged = data
            let map = try TensorMap(
                transposedBoxesAt: try workbench.upload(data.weights), inputs: inputs, outputs: outputs,
                context: workbench.context)
            let parts = try workbench.reserve(splits * rows * outputs, of: Float.self)
            let arguments = tandem_gpu_linear_boxes(
                weights_map: try workbench.upload([map.words]),
                x_map: try workbench.upload([rowsMap(data, workbench).words]), bias: 0, y: 0, parts: parts,
                y_stride: 0, rows: UInt32(rows), inputs: UInt32(inputs), outputs: UInt32(outputs),
                activation: 0, y_is_float: 0, split_count: UInt32(splits))
            return Trial {
                try boxes.linearTransposed(arguments, on: workbench.stream)
            } judge: {
                let found = try workbench.download(parts, splits * rows * outputs, of: Float.self)
                let sums = (0..<rows * outputs).map { element in
                    (0..<splits).reduce(Float(0)) { $0 + found[$1 * rows * outputs + element] }
                }
                return judged.judge(sums, stride: outputs)
            }
        }
    }

    static let layerNormPartsCases = [(36, 1, 0), (768, 5, 1), (4096, 3, 4), (12288, 2, 8), (2560, 32, 3)]
        .flatMap { hidden, rows, parts in
            [false, true].map { layerNormParts(hidden: hidden, rows: rows, parts: parts, isIndexed: $0) }
        }

    private static func layerNormParts(hidden: Int, rows: Int, parts: Int, isIndexed: Bool)
        -> GPUOperationCase
    {
        let sizes = "\(rows) rows of \(hidden), \(parts) parts" + (isIndexed ? ", by row indices" : "")
        return GPUOperationCase(operation: .layerNormParts, sizes: sizes) { workbench in
            let boxes = try boxes(workbench)
            let order = (0..<rows).map { isIndexed ? rows - 1 - $0 : $0 }
            let initial = workbench.random.floats(rows * hidden, scale: 3)
            let added = workbench.random.floats(parts * rows * hidden)
            let addedBias = isIndexed ? nil : workbench.random.floats(hidden)
            let weight = workbench.random.floats(hidden).map { $0 + 1 }
            let bias = isIndexed ? workbench.random.floats(hidden) : nil
            let x = try workbench.upload(initial)
            let y = try workbench.reserve(rows * hidden, of: Float16.self)
            let epsilon = OPTConfiguration.layerNormEpsilon
            let arguments = tandem_gpu_layer_norm_parts(
                x: x, parts: try workbench.upload(added),
                parts_bias: try addedBias.map(workbench.upload) ?? 0,
                y: y, weight: try workbench.upload(weight), bias: try bias.map(workbench.upload) ?? 0,
                row_indices: isIndexed ? try workbench.upload(order.map { UInt32($0) }) : 0,
                hidden: UInt32(hidden), part_count: UInt32(parts), part_rows: UInt32(rows), epsilon: epsilon)
            return Trial {
                try boxes.layerNorm(arguments, rowCount: rows, on: workbench.stream)
            } judge: {
                let residual = (0..<rows * hidden).map { element in
                    (0..<parts).reduce(initial[element] + (addedBias?[element % hidden] ?? 0)) {
                        $0 + added[$1 * rows * hidden + element]
                    }
                }
                let left = try workbench.download(x, rows * hidden, of: Float.self)
                let found = try workbench.download(y, rows * hidden, of: Float16.self)
                var deviation = Deviation()
                var kept = Deviation()
                for (row, source) in order.enumerated() {
                    let expected = ScalarReference.layerNorm(
                        residual, at: source * hidden, width: hidden, weight: weight, bias: bias,
                        epsilon: epsilon)
                    for i in 0..<hidden {
                        deviation.add(Double(found[row * hidden + i]), expected[i])
                        kept.add(
                            Double(left[source * hidden + i]), Double(residual[source * hidden + i]))
                    }
                }
                let error = kept.error ?? .infinity
                deviation.note("the residual stream is off by \(error)", unless: error < 1e-6)
                return deviation
            }
        }
    }
}
