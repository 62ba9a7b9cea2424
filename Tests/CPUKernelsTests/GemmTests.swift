import CPUKernels
import Testing

struct GemmShape: CustomTestStringConvertible, Sendable {
    var rows: Int
    var inputs: Int
    var outputs: Int
    var testDescription: String { "\(rows) x \(inputs) x \(outputs)" }
}

@Suite struct GemmTests {
    // The last ones are larger than a block of rows, of inputs and of outputs.
    static let shapes = [
        GemmShape(rows: 1, inputs: 1, outputs: 1), GemmShape(rows: 7, inputs: 33, outputs: 1),
        GemmShape(rows: 6, inputs: 64, outputs: 16), GemmShape(rows: 12, inputs: 80, outputs: 64),
        GemmShape(rows: 33, inputs: 100, outputs: 47), GemmShape(rows: 13, inputs: 3, outputs: 80),
        GemmShape(rows: 103, inputs: 40, outputs: 33), GemmShape(rows: 8, inputs: 301, outputs: 70),
        GemmShape(rows: 5, inputs: 265, outputs: 290),
    ]

    @Test(arguments: KernelSet.all, shapes)
    func `gemm agrees with the scalar reference in both orientations`(set: KernelSet, shape: GemmShape) {
        let kernels = set.kernels.pointee
        let (rows, inputs, outputs) = (shape.rows, shape.inputs, shape.outputs)
        var random = SplitMix64(rows + inputs + outputs)
        let x = Matrix.random(rows, inputs, &random)
        let weights = Matrix.randomHalves(outputs, inputs, &random)
        let bias = Matrix.random(1, outputs, &random).elements

        let xBuffer = FencedBuffer(x, stride: inputs + 3)
        let panels = (rows + kernels.gemm_panel_rows - 1) / kernels.gemm_panel_rows
        let packed = FencedBuffer<Float>(count: panels * kernels.gemm_panel_rows * inputs)
        kernels.pack_rows(xBuffer.pointer, inputs + 3, rows, inputs, packed.pointer)
        #expect(packed.frontIsIntact)

        for transposed in [false, true] {
            for (index, activation) in [TANDEM_IDENTITY, TANDEM_RELU, TANDEM_GELU].enumerated() {
                let bias = index == 0 ? nil : bias
                let stored = transposed ? weights.transposed : weights
                let weightStride = stored.columns + index
                var halves = [UInt16](
                    repeating: 0xFFFF,
                    count: Matrix.elementCount(stored.rows, stored.columns, stride: weightStride))
                for row in 0..<stored.rows {
                    for column in 0..<stored.columns {
                        halves[row * weightStride + column] = Float16(stored[row, column]).bitPattern
                    }
                }
                let weightBuffer = FencedBuffer(halves)
                let biasBuffer = bias.map { FencedBuffer($0) }
                let scratch = FencedBuffer<Float>(count: kernels.gemm_scratch_count)
                let y = FencedBuffer<Float>(rows: rows, columns: outputs, stride: outputs + 1)
                var arguments = tandem_gemm(
                    packed_x: packed.pointer, weights: weightBuffer.pointer, weights_stride: weightStride,
                    transposed: transposed ? 1 : 0, bias: biasBuffer.map { UnsafePointer($0.pointer) },
                    y: y.pointer, y_stride: outputs + 1, rows: rows, inputs: inputs, outputs: outputs,
                    activation: activation, scratch: scratch.pointer)
                kernels.gemm(&arguments)

                let reference = productReference(
                    x: x, weights: weights, bias: bias, activation: activation)
                let error = firstError(
                    in: y, stride: outputs + 1, columns: outputs, reference, .activatedProduct)
                #expect(error == nil, "transposed \(transposed), activation \(activation.rawValue)")
                #expect(y.gapsAreIntact(rows: rows, columns: outputs, stride: outputs + 1))
                #expect(scratch.frontIsIntact)
            }
        }
    }
}
