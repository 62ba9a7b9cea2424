import CPUKernels
import Testing

@Suite struct LinearTests {
    static let rowCounts = Array(1...9) + [12, 15, 16, 17, 31, 32, 33]
    // The last but one has more inputs than a block for several rows, the last more outputs.
    static let shapes = [
        (1, 1), (7, 1), (1, 7), (33, 5), (64, 64), (80, 33), (100, 18), (2065, 3), (40, 103),
    ]

    @Test(arguments: KernelSet.all, shapes)
    func `linear agrees with the scalar reference at odd sizes`(set: KernelSet, shape: (Int, Int)) {
        let (inputs, outputs) = shape
        var random = SplitMix64(inputs * 1000 + outputs)
        for rows in Self.rowCounts where rows * inputs * outputs <= 150_000 || rows % 8 == 0 {
            let x = Matrix.random(rows, inputs, &random)
            let weights = Matrix.randomHalves(outputs, inputs, &random)
            let bias = rows % 2 == 0 ? nil : Matrix.random(1, outputs, &random).elements
            let activation = [TANDEM_IDENTITY, TANDEM_RELU, TANDEM_GELU][rows % 3]
            let (xStride, yStride) = (inputs + rows % 4, outputs + rows % 3)

            let xBuffer = FencedBuffer(x, stride: xStride)
            let weightBuffer = FencedBuffer(weights.halves)
            let biasBuffer = bias.map { FencedBuffer($0) }
            let y = FencedBuffer<Float>(rows: rows, columns: outputs, stride: yStride)
            var arguments = tandem_linear(
                x: xBuffer.pointer, x_stride: xStride, weights: weightBuffer.pointer,
                bias: biasBuffer.map { UnsafePointer($0.pointer) }, y: y.pointer, y_stride: yStride,
                rows: rows, inputs: inputs, outputs: outputs, activation: activation)
            set.kernels.pointee.linear(&arguments)

            let reference = productReference(x: x, weights: weights, bias: bias, activation: activation)
            let error = firstError(
                in: y, stride: yStride, columns: outputs, reference, .activatedProduct)
            #expect(error == nil, "\(rows) rows, \(inputs) inputs, \(outputs) outputs")
            #expect(y.gapsAreIntact(rows: rows, columns: outputs, stride: yStride))
        }
    }

    @Test(arguments: KernelSet.all, shapes.map { ($0.1, $0.0) } + shapes)
    func `linear_transposed agrees with the scalar reference at odd sizes`(set: KernelSet, shape: (Int, Int))
    {
        let (inputs, outputs) = shape
        var random = SplitMix64(inputs * 1000 + outputs)
        for rows in Self.rowCounts where rows * inputs * outputs <= 150_000 || rows % 8 == 0 {
            let x = Matrix.random(rows, inputs, &random)
            let weights = Matrix.randomHalves(outputs, inputs, &random)
            let (xStride, yStride) = (inputs + rows % 4, outputs + rows % 3)

            let xBuffer = FencedBuffer(x, stride: xStride)
            let weightBuffer = FencedBuffer(weights.transposed.halves)
            let y = FencedBuffer<Float>(rows: rows, columns: outputs, stride: yStride)
            var arguments = tandem_linear_transposed(
                x: xBuffer.pointer, x_stride: xStride, weights: weightBuffer.pointer,
                y: y.pointer, y_stride: yStride, rows: rows, inputs: inputs, outputs: outputs,
                accumulate: 0)
            set.kernels.pointee.linear_transposed(&arguments)

            let reference = productReference(
                x: x, weights: weights, bias: nil, activation: TANDEM_IDENTITY)
            let error = firstError(in: y, stride: yStride, columns: outputs, reference, .product)
            #expect(error == nil, "\(rows) rows, \(inputs) inputs, \(outputs) outputs")

            // The same again in two runs of the inputs, the second added to the first.
            let cut = inputs / 3
            arguments.inputs = cut
            set.kernels.pointee.linear_transposed(&arguments)
            arguments.x += cut
            arguments.weights += cut * outputs
            arguments.inputs = inputs - cut
            arguments.accumulate = 1
            set.kernels.pointee.linear_transposed(&arguments)
            let sum = firstError(in: y, stride: yStride, columns: outputs, reference, .product)
            #expect(sum == nil, "\(rows) rows, \(inputs) inputs in two runs, \(outputs) outputs")
            #expect(y.gapsAreIntact(rows: rows, columns: outputs, stride: yStride))
        }
    }

    @Test(arguments: KernelSet.all)
    func `linear_transposed of no inputs is zeros`(set: KernelSet) {
        for rows in [1, 2, 5] {
            let y = FencedBuffer([Float](repeating: 7, count: rows * 36))
            var arguments = tandem_linear_transposed(
                x: y.pointer, x_stride: 0, weights: FencedBuffer([UInt16](repeating: 0, count: 36)).pointer,
                y: y.pointer, y_stride: 36, rows: rows, inputs: 0, outputs: 35, accumulate: 0)
            set.kernels.pointee.linear_transposed(&arguments)
            for row in 0..<rows {
                #expect((0..<35).allSatisfy { y.pointer[row * 36 + $0] == 0 })
                #expect(y.pointer[row * 36 + 35] == 7)
            }
        }
    }

    @Test(arguments: KernelSet.all)
    func `gelu is exact to 1e-6 over its whole range`(set: KernelSet) {
        // One input of weight 1: y is the activation of x.
        let values = (-1300...1300).map { Float($0) * 0.01 } + [-1e30, -100, 100, 1e30, -0.0]
        let x = FencedBuffer(values)
        let one = FencedBuffer([Float16(1).bitPattern])
        let y = FencedBuffer<Float>(count: values.count)
        var arguments = tandem_linear(
            x: x.pointer, x_stride: 1, weights: one.pointer, bias: nil, y: y.pointer, y_stride: 1,
            rows: values.count, inputs: 1, outputs: 1, activation: TANDEM_GELU)
        set.kernels.pointee.linear(&arguments)
        let reference = values.map {
            Reference(value: activated(Double($0), TANDEM_GELU), magnitude: Double(abs($0)))
        }
        #expect(firstError(in: y, stride: 1, columns: 1, reference, .gelu) == nil)
    }
}
