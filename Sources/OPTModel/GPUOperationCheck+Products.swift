import CUDAKernelImage

/// Matrix products: few rows and many, both layouts of the weights, sizes that come in 16 bytes and sizes that do not.
extension GPUOperationCase {
    static let linearCases: [GPUOperationCase] = {
        var sizes: [ProductSizes] = []
        for rows in [1, 2, 7, 8, 9, 24, 32] {
            for (inputs, outputs) in [
                (36, 100), (48, 36), (100, 211), (211, 48), (1000, 1000), (4096, 211), (1000, 4096),
            ] {
                sizes.append(ProductSizes(rows: rows, inputs: inputs, outputs: outputs))
            }
        }
        sizes += [
            ProductSizes(rows: 1, inputs: 4096, outputs: 4096),
            ProductSizes(rows: 32, inputs: 4096, outputs: 4096),
        ]
        let floats = [(1, 1000, 4096), (3, 211, 100), (9, 768, 1000), (32, 4096, 1000)].map {
            ProductSizes(rows: $0, inputs: $1, outputs: $2)
        }
        return sizes.enumerated().map { linear(ProductVariant($1, number: $0), isFloat: false) }
            + floats.enumerated().map { linear(ProductVariant($1, number: $0), isFloat: true) }
    }()

    static let linearTransposedCases: [GPUOperationCase] = {
        var sizes: [ProductSizes] = []
        for rows in [1, 2, 7, 8, 9, 24, 32] {
            for (inputs, outputs) in [
                (36, 1000), (48, 100), (100, 48), (211, 64), (1000, 211), (4096, 1000), (1000, 4096),
            ] {
                sizes.append(ProductSizes(rows: rows, inputs: inputs, outputs: outputs))
            }
        }
        sizes += [
            ProductSizes(rows: 1, inputs: 4096, outputs: 4096),
            ProductSizes(rows: 32, inputs: 4096, outputs: 4096),
        ]
        return sizes.enumerated().map { linearTransposed(ProductVariant($1, number: $0)) }
    }()

    static let gemmCases: [GPUOperationCase] = {
        var sizes: [ProductSizes] = []
        for rows in [33, 100, 512] {
            for (inputs, outputs) in [
                (36, 100), (48, 64), (100, 211), (211, 36), (1000, 1000), (4096, 256), (256, 4096),
            ] {
                sizes.append(ProductSizes(rows: rows, inputs: inputs, outputs: outputs))
            }
        }
        // Enough tiles for the larger one to be chosen.
        sizes += [
            ProductSizes(rows: 512, inputs: 72, outputs: 8160),
            ProductSizes(rows: 380, inputs: 200, outputs: 9000),
        ]
        return [false, true].flatMap { isTransposed in
            sizes.enumerated().flatMap { number, sizes in
                [false, true].map {
                    gemm(ProductVariant(sizes, number: number), isTransposed: isTransposed, toResidual: $0)
                }
            }
        }
    }()

    // MARK: Few rows

    private static func linear(_ product: ProductVariant, isFloat: Bool) -> GPUOperationCase {
        GPUOperationCase(operation: isFloat ? .linearToFloat : .linear, sizes: product.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            let data = ProductData(product, &workbench.random)
            let x = try workbench.upload(data.x)
            let weights = try workbench.upload(data.weights)
            let bias = try data.bias.map(workbench.upload) ?? 0
            let stride = outputs + 8
            let y =
                isFloat
                ? try workbench.reserve(rows * stride, of: Float.self)
                : try workbench.reserve(rows * stride, of: Float16.self)
            let arguments = tandem_gpu_linear(
                x: x, weights: weights, bias: bias, y: y, x_stride: UInt32(data.xStride),
                y_stride: UInt32(stride), rows: UInt32(rows), inputs: UInt32(inputs),
                outputs: UInt32(outputs + product.excess),
                activation: product.activation, y_is_float: isFloat ? 1 : 0,
                is_resident: product.isResident ? 1 : 0, residual: 0, norm_weight: 0, norm_bias: 0,
                epsilon: 0,
                limit: try product.limit(outputs, workbench))
            return Trial {
                try workbench.kernels.linear(arguments, on: workbench.stream)
            } judge: {
                if isFloat {
                    let found = try workbench.download(y, rows * stride, of: Float.self)
                    return data.judge(found, stride: stride)
                }
                return data.judge(
                    try workbench.download(y, rows * stride, of: Float16.self), stride: stride)
            }
        }
    }

    private static func linearTransposed(_ product: ProductVariant) -> GPUOperationCase {
        GPUOperationCase(operation: .linearTransposed, sizes: product.text) { workbench in
            let (rows, inputs, outputs) = (product.rows, product.inputs, product.outputs)
            var data = ProductData(product, &workbench.random, isTransposed: true)
            let initial = workbench.random.floats(rows * outputs)
            data.initial = initial
            data.activation = 0
            let judged = data
            let counterCount = divideUp(outputs, 64)
            let residual = try workbench.upload(initial)
            let counters = try workbench.upload([UInt32](repeating: 0, count: counterCount))
            let arguments = tandem_gpu_linear_transposed(
                x: try workbench.upload(data.x), weights: try workbench.upload(data.weights),
                bias: try data.bias.map(workbench.upload) ?? 0, residual: residual,
                partials: try workbench.reserve(GPUKernels.mostSplits * rows * outputs, of: Float.self),
                counters: counters, x_stride: UInt32(data.xStride), rows: UInt32(rows),
                inputs: UInt32(inputs + product.excess), outputs: UInt32(outputs), split_count: 1,
                is_resident: product.isResident ? 1 : 0, limit: try product.limit(inputs, workbench))
            return Trial {
                try workbench.kernels.linearTransposed(arguments, on: workbench.stream)
            } judge: {
                let found = try workbench.download(residual, rows * outputs, of: Float.self)
                var deviation = judged.judge(found, stride: outputs)
                let counts = try workbench.download(counters, counterCount, of: UInt32.self)
                deviation.note("its counters are not zero afterwards", unless: counts.allSatisfy { $0 == 0 })
                return deviation
            }
        }
    }

    // MARK: Many rows

    private static func gemm(_ product: ProductVariant, isTransposed: Bool, toResidual: Bool)
        -> GPUOperationCase
    {
        let operation: GPUOperation =
            switch (isTransposed, toResidual) {
            case (false, false): .gemm
            case (true, false): .gemmTransposed
            case (false, true): .gemmToResidual
            case (true, true): .gemmTransposedToResidual
            }
        return GPUOperationCase(operation: operation, sizes: product.text) { workbench in
            var data = ProductData(product, &workbench.random, isTransposed: isTransposed)
            let destination = try ManyRowsDestination(&data, toResidual: toResidual, workbench)
            let arguments = tandem_gpu_gemm(
                x: try workbench.upload(data.x), weights: try workbench.upload(data.weights),
                bias: try data.bias.map(workbench.upload) ?? 0, y: destination.y,
                residual: destination.residual, x_stride: UInt32(data.xStride),
                y_stride: destination.yStride, rows: UInt32(data.rows), inputs: UInt32(data.inputs),
                outputs: UInt32(data.outputs), activation: data.activation, transposed: isTransposed ? 1 : 0)
            let judged = data
            return Trial {
                try workbench.kernels.gemm(arguments, on: workbench.stream)
            } judge: {
                try destination.judge(judged, workbench)
            }
        }
    }
}

/// Where a product of many rows goes: onto a residual stream, or to fp16 with room between the rows.
struct ManyRowsDestination {
    private let address: UInt64
    private let stride: Int
    private let toResidual: Bool

    /// A residual stream's product has no activation, and something to add to.
    init(_ data: inout ProductData, toResidual: Bool, _ workbench: GPUWorkbench) throws {
        self.toResidual = toResidual
        stride = toResidual ? data.outputs : data.outputs + 8
        if toResidual {
            data.activation = 0
            let initial = workbench.random.floats(data.rows * data.outputs)
            data.initial = initial
            address = try workbench.upload(initial)
        } else {
            address = try workbench.reserve(data.rows * stride, of: Float16.self)
        }
    }

    var y: UInt64 { toResidual ? 0 : address }
    var residual: UInt64 { toResidual ? address : 0 }
    var yStride: UInt32 { toResidual ? 0 : UInt32(stride) }

    func judge(_ data: ProductData, _ workbench: GPUWorkbench) throws -> Deviation {
        let count = data.rows * stride
        return toResidual
            ? data.judge(try workbench.download(address, count, of: Float.self), stride: stride)
            : data.judge(try workbench.download(address, count, of: Float16.self), stride: stride)
    }
}

struct ProductSizes: Sendable {
    var rows: Int
    var inputs: Int
    var outputs: Int
}

/// A product's sizes and its variant, which its number in the table chooses.
struct ProductVariant: Sendable {
    let rows, inputs, outputs: Int
    let activation: UInt32
    let hasBias: Bool
    let isResident: Bool
    /// Outputs or inputs that the arguments have beyond those that the limit lets count.
    let excess: Int

    init(_ sizes: ProductSizes, number: Int) {
        rows = sizes.rows
        inputs = sizes.inputs
        outputs = sizes.outputs
        activation = UInt32(number % 3)
        hasBias = number % 4 != 3
        isResident = number % 2 == 0
        excess = number % 3 == 2 ? 200 : 0
    }

    /// What lets `count` items count, where there are more; the first of them stands at 64.
    func limit(_ count: Int, _ workbench: GPUWorkbench) throws -> tandem_gpu_limit {
        if excess == 0 { return tandem_gpu_limit() }
        return tandem_gpu_limit(end: try workbench.upload([UInt32(64 + count)]), first: 64)
    }

    var text: String { "\(rows) \(rows == 1 ? "row" : "rows"), \(inputs) -> \(outputs)" }
}
