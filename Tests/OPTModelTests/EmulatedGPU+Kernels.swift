import CPUKernels
import CUDAKernelImage
import Glibc
import Synchronization

@testable import OPTModel

/// The kernels, as `CUDAKernels.h` describes them.
extension EmulatedGPU {
    static func embed(_ a: tandem_gpu_embed, rowCount: Int) {
        let (hidden, width) = (Int(a.hidden), Int(a.embedding))
        for row in 0..<rowCount {
            let place = pointer(a.rows, to: tandem_gpu_row.self)[row]
            let token = pointer(place.token_row, to: UInt16.self)
            let position = pointer(place.position_row, to: UInt16.self)
            let residual = pointer(a.residual, to: Float.self) + row * hidden
            if a.gathered == 0 {
                cpu.embed(token, position, residual, hidden)
            } else {
                cpu.float_from_half(position, residual, hidden)
                (pointer(a.gathered, to: UInt16.self) + row * width).update(from: token, count: width)
            }
        }
        spoil(pointer(a.residual, to: Float.self), count: rowCount * hidden)
    }

    static func layerNorm(_ a: tandem_gpu_layer_norm, rowCount: Int) {
        let hidden = Int(a.hidden)
        for row in 0..<rowCount {
            let source = a.row_indices == 0 ? row : Int(pointer(a.row_indices, to: UInt32.self)[row])
            let x = pointer(a.x, to: Float.self) + source * hidden
            var values = Array(UnsafeBufferPointer(start: x, count: hidden))
            if a.normalize != 0 {
                values = normalized(x, hidden, weight: a.weight, bias: a.bias, epsilon: a.epsilon)
            }
            let y = pointer(a.y, to: UInt16.self) + row * hidden
            cpu.half_from_float(values, y, hidden)
            if a.keep != 0 { x.update(from: values, count: hidden) }
        }
        if a.keep != 0 {
            spoil(pointer(a.x, to: Float.self), count: rowCount * hidden)
        } else {
            spoil(pointer(a.y, to: Float16.self), count: rowCount * hidden)
        }
    }

    private static func normalized(
        _ x: UnsafePointer<Float>, _ width: Int, weight: UInt64, bias: UInt64, epsilon: Float
    ) -> [Float] {
        var y = [Float](repeating: 0, count: width)
        y.withUnsafeMutableBufferPointer {
            var arguments = CPUKernels.tandem_layer_norm(
                x: x, x_stride: width, y: $0.baseAddress, y_stride: width,
                weight: weight == 0 ? nil : UnsafePointer(pointer(weight, to: Float.self)),
                bias: bias == 0 ? nil : UnsafePointer(pointer(bias, to: Float.self)), rows: 1, width: width,
                epsilon: epsilon)
            cpu.layer_norm(&arguments)
        }
        return y
    }

    // MARK: Products

    static func linear(_ a: tandem_gpu_linear) {
        let (rows, inputs) = (Int(a.rows), Int(a.inputs))
        let outputs = limited(a.limit, a.outputs)
        let x =
            a.residual != 0
            ? normalizedRows(
                a.residual, rows: rows, inputs: inputs, weight: a.norm_weight, bias: a.norm_bias,
                epsilon: a.epsilon)
            : floats(a.x, rows: rows, stride: Int(a.x_stride), columns: inputs)
        let y = products(x, a.weights, rows: rows, inputs: inputs, outputs: outputs, isTransposed: false)
        store(
            y, a.bias, a.y, activation: a.activation, isFloat: a.y_is_float != 0, stride: Int(a.y_stride),
            rows: rows, outputs: outputs)
    }

    static func linearTransposed(_ a: tandem_gpu_linear_transposed) {
        let (rows, outputs) = (Int(a.rows), Int(a.outputs))
        let inputs = limited(a.limit, a.inputs)
        let x = floats(a.x, rows: rows, stride: Int(a.x_stride), columns: inputs)
        let y = products(x, a.weights, rows: rows, inputs: inputs, outputs: outputs, isTransposed: true)
        accumulate(y, a.bias, a.residual, rows: rows, outputs: outputs)
    }

    static func gemm(_ a: tandem_gpu_gemm) {
        let (rows, inputs, outputs) = (Int(a.rows), Int(a.inputs), Int(a.outputs))
        let x = floats(a.x, rows: rows, stride: Int(a.x_stride), columns: inputs)
        let y = products(
            x, a.weights, rows: rows, inputs: inputs, outputs: outputs, isTransposed: a.transposed != 0)
        if a.residual != 0 {
            accumulate(y, a.bias, a.residual, rows: rows, outputs: outputs)
            return
        }
        store(
            y, a.bias, a.y, activation: a.activation, isFloat: false, stride: Int(a.y_stride), rows: rows,
            outputs: outputs)
    }

    /// The layer norm of rows of the residual stream, as the GPU rounds it.
    static func normalizedRows(
        _ residual: UInt64, rows: Int, inputs: Int, weight: UInt64, bias: UInt64, epsilon: Float
    ) -> [Float] {
        (0..<rows).flatMap { row in
            normalized(
                pointer(residual, to: Float.self) + row * inputs, inputs, weight: weight, bias: bias,
                epsilon: epsilon
            ).map { Float(Float16($0)) }
        }
    }

    /// Bias, activation, rounding: sums [rows, outputs] to a result [rows, stride].
    static func store(
        _ sums: [Float], _ bias: UInt64, _ y: UInt64, activation: UInt32, isFloat: Bool, stride: Int,
        rows: Int, outputs: Int
    ) {
        for row in 0..<rows {
            for output in 0..<outputs {
                let value = activated(sums[row * outputs + output], bias, output, activation)
                if isFloat {
                    pointer(y, to: Float.self)[row * stride + output] = value
                } else {
                    pointer(y, to: Float16.self)[row * stride + output] = Float16(value)
                }
            }
        }
        if outputs == 0 { return }
        let count = (rows - 1) * stride + outputs
        if isFloat {
            spoil(pointer(y, to: Float.self), count: count)
        } else {
            spoil(pointer(y, to: Float16.self), count: count)
        }
    }

    static func floats(_ address: UInt64, rows: Int, stride: Int, columns: Int) -> [Float] {
        var result = [Float](repeating: 0, count: rows * columns)
        result.withUnsafeMutableBufferPointer { result in
            for row in 0..<rows {
                cpu.float_from_half(
                    pointer(address, to: UInt16.self) + row * stride, result.baseAddress! + row * columns,
                    columns)
            }
        }
        return result
    }

    /// x · Wᵀ as [rows, outputs], by the CPU's kernels of few rows.
    private static func products(
        _ x: [Float], _ weights: UInt64, rows: Int, inputs: Int, outputs: Int, isTransposed: Bool
    ) -> [Float] {
        var y = [Float](repeating: 0, count: rows * outputs)
        let w = UnsafePointer(pointer(weights, to: UInt16.self))
        x.withUnsafeBufferPointer { x in
            y.withUnsafeMutableBufferPointer { y in
                for first in stride(from: 0, to: rows, by: 32) {
                    let count = min(32, rows - first)
                    let xFirst = x.baseAddress! + first * inputs
                    let yFirst = y.baseAddress! + first * outputs
                    if isTransposed {
                        var arguments = tandem_linear_transposed(
                            x: xFirst, x_stride: inputs, weights: w, y: yFirst, y_stride: outputs,
                            rows: count, inputs: inputs, outputs: outputs, accumulate: 0)
                        cpu.linear_transposed(&arguments)
                    } else {
                        var arguments = CPUKernels.tandem_linear(
                            x: xFirst, x_stride: inputs, weights: w, bias: nil, y: yFirst, y_stride: outputs,
                            rows: count, inputs: inputs, outputs: outputs, activation: TANDEM_IDENTITY)
                        cpu.linear(&arguments)
                    }
                }
            }
        }
        return y
    }

    private static func activated(_ sum: Float, _ bias: UInt64, _ output: Int, _ activation: UInt32) -> Float
    {
        let sum = bias == 0 ? sum : sum + pointer(bias, to: Float.self)[output]
        return Float(ScalarReference.activated(Double(sum), activation))
    }

    static func accumulate(
        _ y: [Float], _ bias: UInt64, _ residual: UInt64, rows: Int, outputs: Int
    ) {
        let result = pointer(residual, to: Float.self)
        for row in 0..<rows {
            for output in 0..<outputs {
                result[row * outputs + output] += activated(y[row * outputs + output], bias, output, 0)
            }
        }
        spoil(result, count: rows * outputs)
    }

    // MARK: Sampling, flags, reading

    static func sample(_ a: tandem_gpu_sample) {
        let vocabulary = Int(a.vocabulary)
        for row in 0..<Int(a.rows) {
            let logits = UnsafeBufferPointer(
                start: pointer(a.logits, to: Float.self) + row * vocabulary, count: vocabulary)
            let choice = pointer(a.choices, to: tandem_gpu_choice.self)[row]
            pointer(a.tokens, to: Int32.self)[row] = ScalarReference.choose(Array(logits), choice).token
        }
        switch defect {
        case .wrongElement: pointer(a.tokens, to: Int32.self)[Int(a.rows) - 1] += 1
        case .strayElement: pointer(a.tokens, to: Int32.self)[Int(a.rows)] = 0
        default: break
        }
        flag(a.sequence_number).pointee.store(
            pointer(a.step, to: UInt32.self).pointee, ordering: .releasing)
    }

    /// The items that a limit lets count, of so many.
    static func limited(_ limit: tandem_gpu_limit, _ count: UInt32) -> Int {
        if limit.end == 0 { return Int(count) }
        let end = pointer(limit.end, to: UInt32.self).pointee
        return end <= limit.first ? 0 : Int(min(count, end - limit.first))
    }

    static func signal(_ a: tandem_gpu_signal) {
        if limited(a.limit, 1) == 0 { return }
        if a.flag == GPULane.unmappedAddress { return isLost.store(true, ordering: .relaxed) }
        flag(a.flag).pointee.store(a.value, ordering: .releasing)
        if a.notice != 0 { flag(a.notice).pointee.store(a.notice_value, ordering: .releasing) }
    }

    /// Unless streams run beside each other, a flag that is not set yet is taken for one that another stream will set, unless there is
    /// little time.
    static func wait(_ a: tandem_gpu_wait) {
        if limited(a.limit, 1) == 0 { return }
        if isConcurrent {
            let end = ContinuousClock.now + .seconds(20)
            while flag(a.flag).pointee.load(ordering: .acquiring) != a.value && lossStatus == 0 {
                if ContinuousClock.now > end {
                    flag(a.failure).pointee.store(1, ordering: .releasing)
                    return
                }
                usleep(10)
            }
            return
        }
        if pointer(a.flag, to: UInt32.self).pointee == a.value || a.timeout_nanoseconds > 1_000_000_000 {
            return
        }
        pointer(a.failure, to: UInt32.self).pointee = 1
    }

    static func publish(_ a: tandem_gpu_publish) {
        let (from, to) = (pointer(a.from, to: UInt16.self), pointer(a.to, to: UInt16.self))
        for row in 0..<Int(a.rows) {
            (to + row * Int(a.columns)).update(from: from + row * Int(a.stride), count: Int(a.columns))
        }
        spoil(pointer(a.to, to: Float16.self), count: Int(a.rows * a.columns))
        flag(a.word).pointee.store(pointer(a.step, to: UInt32.self).pointee, ordering: .releasing)
    }

    /// Whether the answer of an exchange came.
    private static func poll(word: UInt64, step: UInt64, abort: UInt64, timeoutNanoseconds: UInt64) -> Bool {
        let end = ContinuousClock.now + .nanoseconds(Int64(timeoutNanoseconds))
        while flag(word).pointee.load(ordering: .acquiring) != pointer(step, to: UInt32.self).pointee {
            if flag(abort).pointee.load(ordering: .acquiring) != 0 || lossStatus != 0 { return false }
            if ContinuousClock.now > end {
                flag(abort).pointee.store(UInt32(TANDEM_GPU_WAITED_TOO_LONG), ordering: .releasing)
                return false
            }
            sched_yield()
        }
        return true
    }

    static func join(_ a: tandem_gpu_join) {
        guard
            poll(
                word: a.word, step: a.step, abort: a.abort, timeoutNanoseconds: a.timeout_nanoseconds)
        else { return }
        let (from, to) = (pointer(a.from, to: Float.self), pointer(a.to, to: Float.self))
        for row in 0..<Int(a.rows) {
            for column in 0..<Int(a.columns) {
                let element = to + row * Int(a.stride) + column
                element.pointee =
                    from[row * Int(a.columns) + column] + (a.adds != 0 ? element.pointee : 0)
            }
        }
        spoil(to, count: (Int(a.rows) - 1) * Int(a.stride) + Int(a.columns))
    }

    static func take(_ a: tandem_gpu_await) {
        guard
            poll(
                word: a.word, step: a.step, abort: a.abort, timeoutNanoseconds: a.timeout_nanoseconds)
        else { return }
        let (from, to) = (pointer(a.from, to: UInt16.self), pointer(a.to, to: UInt16.self))
        for row in 0..<Int(a.rows) {
            (to + row * Int(a.stride)).update(from: from + row * Int(a.columns), count: Int(a.columns))
        }
        spoil(
            pointer(a.to, to: Float16.self), count: (Int(a.rows) - 1) * Int(a.stride) + Int(a.columns))
    }

    static func allReduce(_ a: tandem_gpu_all_reduce) {
        let (rank, ranks, count) = (Int(a.rank), Int(a.rank_count), Int(a.count))
        let number = pointer(a.step, to: UInt32.self).pointee &* a.numbers_per_step &+ a.number &+ 1
        let place = Int(number % 2) * ranks * Int(a.capacity)
        let memory = withUnsafeBytes(of: a.memory) { Array($0.bindMemory(to: UInt64.self)) }
        func word(_ owner: Int, part: Int, _ index: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
            let address = memory[owner] + UInt64(8 * (place + part * Int(a.capacity) + index))
            return UnsafeMutablePointer(bitPattern: UInt(address))!
        }
        let sum = pointer(a.sum, to: Float.self)
        let own = Array(UnsafeBufferPointer(start: sum, count: count))
        for peer in 0..<ranks where peer != rank {
            for index in 0..<count {
                let bits = UInt64(number) << 32 | UInt64(own[index].bitPattern)
                word(peer, part: rank, index).pointee.store(bits, ordering: .releasing)
            }
        }
        if a.clears != 0 { sum.update(repeating: 0, count: count) }
        let end = ContinuousClock.now + .seconds(20)
        var totals = [Float](repeating: 0, count: count)
        for part in 0..<ranks {
            for index in 0..<count {
                if part == rank {
                    totals[index] += own[index]
                    continue
                }
                var bits = word(rank, part: part, index).pointee.load(ordering: .acquiring)
                while UInt32(bits >> 32) != number {
                    if ContinuousClock.now > end || lossStatus != 0 {
                        flag(a.failure).pointee.store(1, ordering: .releasing)
                        return
                    }
                    sched_yield()
                    bits = word(rank, part: part, index).pointee.load(ordering: .acquiring)
                }
                totals[index] += Float(bitPattern: UInt32(truncatingIfNeeded: bits))
            }
        }
        pointer(a.residual, to: Float.self).update(from: totals, count: count)
        spoil(pointer(a.residual, to: Float.self), count: count)
    }

    static func read(_ a: tandem_gpu_read) {
        let words = UnsafeBufferPointer(
            start: pointer(a.bytes, to: UInt32.self), count: Int(a.byte_count) / 16 * 4)
        for word in words { pointer(a.digest, to: UInt32.self).pointee &+= word }
    }
}
