import CUDA
import CUDAKernelImage

/// Products with quantized weights: the operations of a pass, with the tiles in the matrices' place.
extension GPULane {
    struct QuantizedProduct {
        var x, tiles, bias: UInt64
        var inputs, outputs: Int
        var form: MatrixForm

        var bits: Int { form.quantization!.bits }
    }

    /// y = activation(x · Wᵀ + bias), W kept by outputs; with `norm` x is the residual stream, normalized.
    func multiplyQuantized(
        _ product: QuantizedProduct, to y: UInt64, activation: UInt32, isResident: Bool, norm: GPUNorm?,
        limit: tandem_gpu_limit, _ pass: Pass
    ) throws(CUDAError) {
        if pass.hasFewRows {
            var a = fewRows(product, isResident: isResident, limit: limit, pass)
            a.y = y
            a.y_stride = UInt32(product.outputs)
            a.activation = activation
            if let norm {
                a.residual = scratch.residual
                a.norm_weight = norm.weight
                a.norm_bias = norm.bias
                a.epsilon = OPTConfiguration.layerNormEpsilon
            }
            try kernels.linearQuantized(a, on: stream)
        } else {
            var a = manyRows(product, pass)
            a.y = y
            a.y_stride = UInt32(product.outputs)
            a.activation = activation
            try kernels.gemmQuantized(a, on: stream)
        }
    }

    /// sum += x · W + bias, W kept by inputs.
    func accumulateQuantized(
        _ product: QuantizedProduct, isResident: Bool, limit: tandem_gpu_limit, _ pass: Pass
    ) throws(CUDAError) {
        if pass.hasFewRows {
            var a = fewRows(product, isResident: isResident, limit: limit, pass)
            a.by_inputs = 1
            a.residual = scratch.sum
            a.partials = scratch.partials
            a.counters = scratch.counters
            try kernels.linearQuantized(a, on: stream)
        } else {
            var a = manyRows(product, pass)
            a.by_inputs = 1
            a.residual = scratch.sum
            try kernels.gemmQuantized(a, on: stream)
        }
    }

    private func fewRows(
        _ product: QuantizedProduct, isResident: Bool, limit: tandem_gpu_limit, _ pass: Pass
    ) -> tandem_gpu_linear_quantized {
        var a = tandem_gpu_linear_quantized()
        a.x = product.x
        a.tiles = product.tiles
        a.bias = product.bias
        a.x_stride = UInt32(product.inputs)
        a.rows = UInt32(pass.rowCount)
        a.inputs = UInt32(product.inputs)
        a.outputs = UInt32(product.outputs)
        a.bits = UInt32(product.bits)
        a.period = UInt32(product.form.period)
        a.is_resident = isResident ? 1 : 0
        a.limit = limit
        return a
    }

    private func manyRows(_ product: QuantizedProduct, _ pass: Pass) -> tandem_gpu_gemm_quantized {
        var a = tandem_gpu_gemm_quantized()
        a.x = product.x
        a.tiles = product.tiles
        a.bias = product.bias
        a.x_stride = UInt32(product.inputs)
        a.rows = UInt32(pass.rowCount)
        a.inputs = UInt32(product.inputs)
        a.outputs = UInt32(product.outputs)
        a.bits = UInt32(product.bits)
        a.period = UInt32(product.form.period)
        return a
    }
}
