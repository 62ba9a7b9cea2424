import CUDAKernelImage
import TensorCore

/// Products of weights in 4 and 8 bits: both orders, groups that end with a head or with the matrix.
extension GPUOperationCase {
    /// Inputs, their period, and outputs.
    private static let quantizedSizes = [
        (16, 64, 48), (48, 64, 1008), (64, 64, 12288), (80, 80, 208), (160, 80, 16), (96, 64, 208),
        (144, 48, 48),
        (1008, 64, 1008), (1920, 96, 64), (4096, 64, 208), (320, 160, 4096),
    ]

    /// As many rows of each size, in 4 and 8 bits by turns.
    private static func quantizedProducts(rows: [Int]) -> [QuantizedProduct] {
        rows.enumerated().flatMap { rowNumber, rows in
            quantizedSizes.enumerated().map { number, sizes in
                QuantizedProduct(
                    ProductSizes(rows: rows, inputs: sizes.0, outputs: sizes.2),
                    number: rowNumber * quantizedSizes.count + number, period: sizes.1,
                    bits: (rowNumber + number) % 2 == 0 ? 4 : 8)
            }
        }
    }

    /// A matrix of an MLP, of which a check has two copies where they have room: together they are more than the L2
    /// cache of any GPU so far, so that their time is that of reading GPU memory.
    private static func large(inputs: Int, outputs: Int) -> [QuantizedProduct] {
        [4, 8].map {
            QuantizedProduct(
                ProductSizes(rows: 1, inputs: inputs, outputs: outputs), number: 0, period: 64, bits: $0,
                copyCount: 8 / $0)
        }
    }

    static let linearQuantizedCases: [GPUOperationCase] = {
        let floats = quantizedProducts(rows: [2, 32]).filter { $0.product.inputs % 3 == 1 }
        let normalized = quantizedProducts(rows: [1, 2]).filter { $0.period == 64 }
        return (quantizedProducts(rows: [1, 2, 7, 8, 9, 24, 32]) + large(inputs: 4096, outputs: 16384)).map {
            linearQuantized($0, isFloat: false)
        } + floats.map { linearQuantized($0, isFloat: true) }
            + normalized.map { linearQuantizedNormalized($0) }
    }()

    static let linearQuantizedByInputsCases =
        (quantizedProducts(rows: [1, 2, 7, 8, 9, 24, 32]) + large(inputs: 16384, outputs: 4096)).map {
            linearQuantizedByInputs($0)
        }

    static let gemmQuantizedCases =
        (quantizedProducts(rows: [33, 100, 512])
        // Enough tiles for the larger one to be chosen.
        + quantizedProducts(rows: [380]).map { $0.with(outputs: 8160) }.prefix(4)).enumerated().map {
            gemmQuantized($1, order: $0 / 2 % 2 == 0 ? .byOutputs : .byInputs, toResidual: $0 % 3 == 1)
        }

    // MARK: Few rows

    private static func linearQuantized(_ quantized: QuantizedProduct, isFloat: Bool) -> GPUOperationCase {
        let product = quantized.product
        let operation: GPUOperation = isFloat ? .linearQuantizedToFloat : .linearQuantized
        return GPUOperationCase(operation: operation, sizes: quantized.text) { workbench in
            let (rows, outputs) = (product.rows, product.outputs)
            let tiles = quantized.tiles(.byOutputs, excessOutputs: quantized.excess)
            let data = ProductData(product, &workbench.random, tiles: tiles)
            let stride = outputs + 8
            let y =
                isFloat
                ? try workbench.reserve(rows * stride, of: Float.self)
                : try workbench.reserve(rows * stride, of: Float16.self)
            var arguments = try arguments(quantized, data, workbench)
            arguments.x = try workbench.upload(data.x)
            arguments.y = y
            arguments.y_stride = UInt32(stride)
            arguments.y_is_float = isFloat ? 1 : 0
            arguments.activation = product.activation
            arguments.limit = try quantized.limit(outputs, workbench)
            let launch = try launch(arguments, quantized, tiles, workbench)
            return Trial(launch: launch) {
                if isFloat {
                    return data.judge(
                        try workbench.download(y, rows * stride, of: Float.self), stride: stride)
                }
                return data.judge(
                    try workbench.download(y, rows * stride, of: Float16.self), stride: stride)
            }
        }
    }

    private static func linearQuantizedNormalized(_ quantized: QuantizedProduct) -> GPUOperationCase {
        let product = quantized.product
        return GPUOperationCase(operation: .linearQuantizedNormalized, sizes: quantized.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            let residual = workbench.random.floats(rows * inputs, scale: 3)
            let weight = product.hasBias ? workbench.random.floats(inputs).map { $0 + 1 } : nil
            let bias = product.hasBias ? workbench.random.floats(inputs) : nil
            let epsilon = OPTConfiguration.layerNormEpsilon
            let tiles = quantized.tiles(.byOutputs)
            var data = ProductData(product, &workbench.random, tiles: tiles)
            data.replaceInputs { row in
                ScalarReference.layerNorm(
                    residual, at: row * inputs, width: inputs, weight: weight, bias: bias, epsilon: epsilon)
            }
            let judged = data
            let stride = outputs + 8
            let y = try workbench.reserve(rows * stride, of: Float16.self)
            var arguments = try arguments(quantized, data, workbench)
            arguments.outputs = UInt32(outputs)
            arguments.y = y
            arguments.y_stride = UInt32(stride)
            arguments.activation = product.activation
            arguments.residual = try workbench.upload(residual)
            arguments.norm_weight = try weight.map(workbench.upload) ?? 0
            arguments.norm_bias = try bias.map(workbench.upload) ?? 0
            arguments.epsilon = epsilon
            let launch = try launch(arguments, quantized, tiles, workbench)
            return Trial(launch: launch) {
                judged.judge(try workbench.download(y, rows * stride, of: Float16.self), stride: stride)
            }
        }
    }

    private static func linearQuantizedByInputs(_ quantized: QuantizedProduct) -> GPUOperationCase {
        let product = quantized.product
        return GPUOperationCase(operation: .linearQuantizedByInputs, sizes: quantized.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            // The limit lies where a group ends.
            let excess = inputs % 64 == 0 && quantized.period == 64 ? quantized.excess : 0
            let tiles = quantized.tiles(.byInputs, excessInputs: excess)
            var data = ProductData(product, &workbench.random, tiles: tiles)
            let initial = workbench.random.floats(rows * outputs)
            data.initial = initial
            data.activation = 0
            let judged = data
            let counterCount = divideUp(outputs, 64)
            let counters = try workbench.upload([UInt32](repeating: 0, count: counterCount))
            let residual = try workbench.upload(initial)
            var arguments = try arguments(quantized, data, workbench)
            arguments.x = try workbench.upload(data.x)
            arguments.outputs = UInt32(outputs)
            arguments.inputs = UInt32(inputs + excess)
            arguments.by_inputs = 1
            arguments.residual = residual
            arguments.partials = try workbench.reserve(
                GPUKernels.mostSplits * rows * outputs, of: Float.self)
            arguments.counters = counters
            if excess > 0 { arguments.limit = try quantized.limit(inputs, workbench) }
            let launch = try launch(arguments, quantized, tiles, workbench)
            return Trial(launch: launch) {
                let found = try workbench.download(residual, rows * outputs, of: Float.self)
                var deviation = judged.judge(found, stride: outputs)
                let counts = try workbench.download(counters, counterCount, of: UInt32.self)
                deviation.note("its counters are not zero afterwards", unless: counts.allSatisfy { $0 == 0 })
                return deviation
            }
        }
    }

    /// What the products of few rows have in common.
    private static func arguments(
        _ quantized: QuantizedProduct, _ data: ProductData, _ workbench: GPUWorkbench
    ) throws -> tandem_gpu_linear_quantized {
        var arguments = tandem_gpu_linear_quantized()
        arguments.bias = try data.bias.map(workbench.upload) ?? 0
        arguments.x_stride = UInt32(data.xStride)
        arguments.rows = UInt32(data.rows)
        arguments.inputs = UInt32(data.inputs)
        arguments.outputs = UInt32(data.outputs + quantized.excess)
        arguments.bits = UInt32(quantized.bits)
        arguments.period = UInt32(quantized.period)
        arguments.is_resident = quantized.product.isResident ? 1 : 0
        return arguments
    }

    /// Launches that take copies of the tiles by turns.
    private static func launch(
        _ arguments: tandem_gpu_linear_quantized, _ quantized: QuantizedProduct, _ tiles: QuantizedTiles,
        _ workbench: GPUWorkbench
    ) throws -> () throws -> Void {
        let copies = try (0..<quantized.copyCount).map { _ in try workbench.upload(tiles.bytes) }
        var arguments = arguments
        var count = 0
        return {
            arguments.tiles = copies[count % copies.count]
            count += 1
            try workbench.kernels.linearQuantized(arguments, on: workbench.stream)
        }
    }

    // MARK: Many rows

    private static func gemmQuantized(
        _ quantized: QuantizedProduct, order: QuantizedLayout.Order, toResidual: Bool
    ) -> GPUOperationCase {
        let product = quantized.product
        let operation: GPUOperation = toResidual ? .gemmQuantizedToResidual : .gemmQuantized
        let sizes = quantized.text + (order == .byInputs ? ", by inputs" : "")
        return GPUOperationCase(operation: operation, sizes: sizes) { workbench in
            let tiles = quantized.tiles(order)
            var data = ProductData(product, &workbench.random, tiles: tiles)
            let destination = try ManyRowsDestination(&data, toResidual: toResidual, workbench)
            let arguments = tandem_gpu_gemm_quantized(
                x: try workbench.upload(data.x), tiles: try workbench.upload(tiles.bytes),
                bias: try data.bias.map(workbench.upload) ?? 0, y: destination.y,
                residual: destination.residual, x_stride: UInt32(data.xStride),
                y_stride: destination.yStride, rows: UInt32(data.rows), inputs: UInt32(data.inputs),
                outputs: UInt32(data.outputs), bits: UInt32(quantized.bits), period: UInt32(quantized.period),
                by_inputs: order == .byInputs ? 1 : 0, activation: data.activation)
            let judged = data
            return Trial {
                try workbench.kernels.gemmQuantized(arguments, on: workbench.stream)
            } judge: {
                try destination.judge(judged, workbench)
            }
        }
    }
}

/// A product of quantized weights.
private struct QuantizedProduct: Sendable {
    let product: ProductVariant
    let period, bits, copyCount: Int
    private let number: Int

    init(_ sizes: ProductSizes, number: Int, period: Int, bits: Int, copyCount: Int = 1) {
        product = ProductVariant(sizes, number: number)
        self.number = number
        self.period = period
        self.bits = bits
        self.copyCount = copyCount
    }

    func with(outputs: Int) -> QuantizedProduct {
        QuantizedProduct(
            ProductSizes(rows: product.rows, inputs: product.inputs, outputs: outputs), number: number,
            period: period, bits: bits)
    }

    /// As a variant's, in whole tiles and groups.
    var excess: Int { product.excess / 64 * 64 }

    func limit(_ count: Int, _ workbench: GPUWorkbench) throws -> tandem_gpu_limit {
        try product.limit(count, workbench)
    }

    func tiles(_ order: QuantizedLayout.Order, excessOutputs: Int = 0, excessInputs: Int = 0)
        -> QuantizedTiles
    {
        QuantizedTiles(
            QuantizedLayout(
                Quantization(bits: bits)!, order, outputs: product.outputs + excessOutputs,
                inputs: product.inputs + excessInputs, period: period))
    }

    var text: String {
        product.text + ", \(bits) bits" + (period == Quantization.groupSize ? "" : ", heads of \(period)")
    }
}
