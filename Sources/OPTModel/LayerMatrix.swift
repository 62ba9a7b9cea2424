import CPUKernels
import HostRuntime
import TensorCore

/// A matrix of a layer in CPU memory, or its rows from one on, and the products that the processor computes with it.
struct LayerMatrix: @unchecked Sendable {  // lent by the shard that owns it
    let base: UnsafeRawPointer
    let form: MatrixForm

    /// The rows from `row` on, where a range may begin.
    func from(_ row: Int) -> LayerMatrix {
        LayerMatrix(base: base + form.byteCount(row), form: form)
    }

    func bytes(_ rows: Range<Int>) -> UnsafeRawBufferPointer {
        let first = form.byteCount(rows.lowerBound)
        return UnsafeRawBufferPointer(
            start: base + first, count: form.byteCount(rows.upperBound) - first)
    }

    private var halves: UnsafePointer<UInt16> { base.assumingMemoryBound(to: UInt16.self) }

    /// A few rows of activations, [rows, inputs], for products with matrices of one form.
    struct Activations {
        let x: UnsafePointer<Float>
        let stride: Int
        let rowCount: Int
        /// Rounded group by group, where the matrices are quantized.
        let groups: UnsafeMutableRawPointer?
    }

    /// Makes activations ready for `multiply`.
    ///
    /// - Parameter groups: the thread's own memory for them, `groupByteCount`.
    static func prepare(
        _ x: UnsafePointer<Float>, stride: Int, rowCount: Int, inputs: Int, for form: MatrixForm,
        groups: UnsafeMutableRawPointer, _ kernels: tandem_cpu_kernels
    ) -> Activations {
        guard form.quantization != nil else {
            return Activations(x: x, stride: stride, rowCount: rowCount, groups: nil)
        }
        var operation = tandem_quantize_rows(
            x: x, x_stride: stride, rows: rowCount, inputs: inputs, period: form.period, groups: groups)
        kernels.quantize_rows(&operation)
        return Activations(x: x, stride: stride, rowCount: rowCount, groups: groups)
    }

    /// y = activation(x · Wᵀ + bias) for a range of outputs, of a matrix that is kept by outputs. `bias` and `y` are those of
    /// output 0.
    func multiply(
        _ x: Activations, outputs: Range<Int>, bias: UnsafePointer<Float>?, y: UnsafeMutablePointer<Float>,
        yStride: Int, activation: tandem_activation, _ kernels: tandem_cpu_kernels
    ) {
        let first = outputs.lowerBound
        guard let quantization = form.quantization else {
            var operation = tandem_linear(
                x: x.x, x_stride: x.stride, weights: halves + first * form.width,
                bias: bias.map { $0 + first },
                y: y + first, y_stride: yStride, rows: x.rowCount, inputs: form.width,
                outputs: outputs.count, activation: activation)
            return kernels.linear(&operation)
        }
        var operation = tandem_linear_quantized(
            x: x.groups, weights: base + form.byteCount(first), bits: Int32(quantization.bits), by_inputs: 0,
            period: form.period, bias: bias.map { $0 + first }, y: y + first, y_stride: yStride,
            rows: x.rowCount, inputs: form.width, outputs: outputs.count, activation: activation,
            accumulate: 0)
        kernels.linear_quantized(&operation)
    }

    /// y = x · W, or added to y, for a range of inputs of a matrix that is kept by inputs. `x` is that of input 0.
    ///
    /// - Parameter groups: the thread's own memory, `groupByteCount` for `inputsAtOnce` inputs.
    func multiplyTransposed(
        _ x: UnsafePointer<Float>, stride: Int, rowCount: Int, inputs: Range<Int>,
        y: UnsafeMutablePointer<Float>, accumulates: Bool, groups: UnsafeMutableRawPointer,
        _ kernels: tandem_cpu_kernels
    ) {
        guard let quantization = form.quantization else {
            var operation = tandem_linear_transposed(
                x: x + inputs.lowerBound, x_stride: stride, weights: halves + inputs.lowerBound * form.width,
                y: y, y_stride: form.width, rows: rowCount, inputs: inputs.count, outputs: form.width,
                accumulate: accumulates ? 1 : 0)
            return kernels.linear_transposed(&operation)
        }
        var first = inputs.lowerBound
        repeat {
            let count = min(inputs.upperBound - first, Self.inputsAtOnce(form.period))
            let prepared = Self.prepare(
                x + first, stride: stride, rowCount: rowCount, inputs: count, for: form, groups: groups,
                kernels)
            var operation = tandem_linear_quantized(
                x: prepared.groups, weights: base + form.byteCount(first), bits: Int32(quantization.bits),
                by_inputs: 1, period: form.period, bias: nil, y: y, y_stride: form.width, rows: rowCount,
                inputs: count, outputs: form.width, activation: TANDEM_IDENTITY,
                accumulate: accumulates || first > inputs.lowerBound ? 1 : 0)
            kernels.linear_quantized(&operation)
            first += count
        } while first < inputs.upperBound
    }

    /// Many rows.
    struct ManyRows {
        /// [rows, inputs] as `pack_rows` has made it.
        let packed: UnsafePointer<Float>
        let rowCount, inputs: Int
        /// The thread's own.
        let scratch: UnsafeMutablePointer<Float>
    }

    /// y = activation(x · Wᵀ + bias) for many rows and a range of outputs; `bias` and `y` are those of output 0.
    func multiply(
        _ x: ManyRows, outputs: Range<Int>, of outputCount: Int, bias: UnsafePointer<Float>?,
        y: UnsafeMutablePointer<Float>, yStride: Int, activation: tandem_activation,
        _ kernels: tandem_cpu_kernels
    ) {
        let first = outputs.lowerBound
        let byInputs = form.order == .byInputs
        guard let quantization = form.quantization else {
            var operation = tandem_gemm(
                packed_x: x.packed, weights: halves + first * (byInputs ? 1 : form.width),
                weights_stride: form.width, transposed: byInputs ? 1 : 0, bias: bias.map { $0 + first },
                y: y + first, y_stride: yStride, rows: x.rowCount, inputs: x.inputs, outputs: outputs.count,
                activation: activation, scratch: x.scratch)
            return kernels.gemm(&operation)
        }
        var operation = tandem_gemm_quantized(
            packed_x: x.packed, weights: base, bits: Int32(quantization.bits), by_inputs: byInputs ? 1 : 0,
            period: form.period, matrix_outputs: outputCount, first_output: first,
            bias: bias.map { $0 + first }, y: y + first, y_stride: yStride, rows: x.rowCount,
            inputs: x.inputs, outputs: outputs.count, activation: activation, scratch: x.scratch)
        kernels.gemm_quantized(&operation)
    }

    /// The memory that `prepare` needs.
    static func groupByteCount(rowCount: Int, inputs: Int, period: Int) -> Int {
        let groups = divideUp(inputs, period) * divideUp(period, Quantization.groupSize)
        return groups * rowCount * Int(TANDEM_QUANTIZED_GROUP_BYTES)
    }

    /// The inputs that a thread makes ready at once, so that they stay in its cache.
    static func inputsAtOnce(_ period: Int) -> Int { max(1, 1024 / period) * period }
}
