import CUDAKernelImage
import EmulatedTiles

@testable import OPTModel

/// The products of quantized weights, as `CUDAKernels.h` describes them.
extension EmulatedGPU {
    static func linearQuantized(_ a: tandem_gpu_linear_quantized) {
        let rows = Int(a.rows)
        let inputs = a.by_inputs == 0 ? Int(a.inputs) : limited(a.limit, a.inputs)
        let outputs = a.by_inputs == 0 ? limited(a.limit, a.outputs) : Int(a.outputs)
        let x =
            a.residual != 0 && a.by_inputs == 0
            ? normalizedRows(
                a.residual, rows: rows, inputs: inputs, weight: a.norm_weight, bias: a.norm_bias,
                epsilon: a.epsilon)
            : floats(a.x, rows: rows, stride: Int(a.x_stride), columns: inputs)
        let y = quantizedProducts(
            x, a.tiles, bits: a.bits, period: a.period, byInputs: a.by_inputs, matrix: (a.inputs, a.outputs),
            rows: rows, inputs: inputs, outputs: outputs)
        if a.by_inputs != 0 {
            accumulate(y, a.bias, a.residual, rows: rows, outputs: outputs)
        } else {
            store(
                y, a.bias, a.y, activation: a.activation, isFloat: a.y_is_float != 0, stride: Int(a.y_stride),
                rows: rows, outputs: outputs)
        }
    }

    static func gemmQuantized(_ a: tandem_gpu_gemm_quantized) {
        let (rows, inputs, outputs) = (Int(a.rows), Int(a.inputs), Int(a.outputs))
        let x = floats(a.x, rows: rows, stride: Int(a.x_stride), columns: inputs)
        let y = quantizedProducts(
            x, a.tiles, bits: a.bits, period: a.period, byInputs: a.by_inputs, matrix: (a.inputs, a.outputs),
            rows: rows, inputs: inputs, outputs: outputs)
        if a.residual != 0 {
            accumulate(y, a.bias, a.residual, rows: rows, outputs: outputs)
        } else {
            store(
                y, a.bias, a.y, activation: a.activation, isFloat: false, stride: Int(a.y_stride), rows: rows,
                outputs: outputs)
        }
    }

    private static func quantizedProducts(
        _ x: [Float], _ tiles: UInt64, bits: UInt32, period: UInt32, byInputs: UInt32,
        matrix: (inputs: UInt32, outputs: UInt32), rows: Int, inputs: Int, outputs: Int
    ) -> [Float] {
        var y = [Float](repeating: 0, count: rows * outputs)
        y.withUnsafeMutableBufferPointer { y in
            tandem_emulated_quantized_product(
                x, pointer(tiles, to: UInt8.self), y.baseAddress, Int64(bits), Int64(period), Int64(byInputs),
                Int64(matrix.inputs), Int64(matrix.outputs), Int64(rows), Int64(inputs), Int64(outputs))
        }
        return y
    }
}
