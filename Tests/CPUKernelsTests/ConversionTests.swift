import CPUKernels
import Testing

@Suite struct ConversionTests {
    @Test(arguments: KernelSet.all)
    func `every half becomes the float of the same value`(set: KernelSet) {
        let halves = FencedBuffer((0...UInt16.max).map { $0 })
        let floats = FencedBuffer<Float>(count: halves.count)
        set.kernels.pointee.float_from_half(halves.pointer, floats.pointer, halves.count)
        let wrong = (0..<halves.count).first { index in
            let expected = Float(Float16(bitPattern: halves.pointer[index]))
            let value = floats.pointer[index]
            return expected.isNaN ? !value.isNaN : value.bitPattern != expected.bitPattern
        }
        #expect(wrong == nil)
    }

    @Test(arguments: KernelSet.all)
    func `floats round to the nearest half, ties to even`(set: KernelSet) {
        var values: [Float] = [
            0, -0.0, .infinity, -.infinity, .nan, -.nan, .leastNonzeroMagnitude, .leastNormalMagnitude,
            .greatestFiniteMagnitude, 65503.996, 65504, 65519.996, 65520, 65536, -65519.996, -65520,
            Float(bitPattern: 0x7F80_0001), 0x1p-24, 0x1p-25, 0x1.000002p-25, 0x1.8p-24, 0x1.ffep-15, 0x1p-14,
        ]
        // All halves, the midpoints above them and their neighbours.
        for bits in stride(from: UInt16(0), to: 0x7C00, by: 7) {
            let low = Float(Float16(bitPattern: bits))
            let high = Float(Float16(bitPattern: bits + 1))
            let middle = high.isFinite ? low + (high - low) / 2 : 65520
            values += [low, middle, middle.nextUp, middle.nextDown, -middle]
        }
        var random = SplitMix64(1)
        for _ in 0..<20_000 { values.append(Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))) }
        for _ in 0..<20_000 { values.append(random.unit() * 0x1p-13) }

        let source = FencedBuffer(values)
        let halves = FencedBuffer<UInt16>(count: values.count)
        set.kernels.pointee.half_from_float(source.pointer, halves.pointer, values.count)
        let wrong = values.indices.first { index in
            let expected = Float16(values[index])
            let value = Float16(bitPattern: halves.pointer[index])
            return expected.isNaN
                ? !(value.isNaN && value.sign == expected.sign) : value.bitPattern != expected.bitPattern
        }
        #expect(wrong == nil, "\(wrong.map { values[$0] } ?? 0)")
    }

    static let sides = [1, 7, 31, 32, 33, 64, 100]

    @Test(arguments: KernelSet.all, [TANDEM_FLOAT16, TANDEM_BFLOAT16, TANDEM_FLOAT32])
    func `convert places every element and counts what overflows`(set: KernelSet, type: tandem_scalar_type) {
        var random = SplitMix64(Int(type.rawValue))
        for rows in Self.sides {
            for columns in Self.sides {
                let sourceStride = columns + 3
                var overflows = 0
                // Little-endian bytes at an odd address, as a checkpoint's tensor may lie.
                var bytes: [UInt8] = [0]
                var expected: [UInt16] = []
                for index in 0..<Matrix.elementCount(rows, columns, stride: sourceStride) {
                    let exponent = Float(sign: .plus, exponent: Int(random.next() % 40) - 20, significand: 1)
                    let (value, encoding) = encoded(random.unit() * exponent, as: type)
                    bytes += encoding
                    if index % sourceStride < columns {
                        expected.append(Float16(value).bitPattern)
                        if Float16(value).isInfinite { overflows += 1 }
                    }
                }
                let source = FencedBuffer(bytes)
                for transposed in [false, true] {
                    let (outer, inner) = transposed ? (columns, rows) : (rows, columns)
                    // Without a gap, squares of 64 begin at whole cache lines, which are written another way.
                    let stride = inner == 64 ? inner : inner + 2
                    let result = FencedBuffer<UInt16>(
                        count: Matrix.elementCount(outer, inner, stride: stride))
                    var arguments = tandem_convert(
                        source: source.pointer + 1, source_type: type, source_stride: sourceStride,
                        destination: result.pointer, destination_stride: stride, rows: rows,
                        columns: columns, transposed: transposed ? 1 : 0)
                    let counted = set.kernels.pointee.convert(&arguments)
                    var right = true
                    for row in 0..<rows {
                        for column in 0..<columns {
                            let place = transposed ? column * stride + row : row * stride + column
                            if result.pointer[place] != expected[row * columns + column] { right = false }
                        }
                    }
                    for row in 0..<outer - 1 {
                        for gap in inner..<stride where result.pointer[row * stride + gap] != 0xFFFF {
                            right = false
                        }
                    }
                    #expect(right, "\(rows) x \(columns), transposed \(transposed)")
                    #expect(counted == overflows)
                    #expect(result.frontIsIntact)
                }
            }
        }
    }

    @Test(arguments: KernelSet.all)
    func `infinities and NaNs do not count as overflows`(set: KernelSet) {
        let source = FencedBuffer<Float>([.infinity, .nan, -.infinity, 65519, 65520, -1e9])
        let result = FencedBuffer<UInt16>(count: 6)
        var arguments = tandem_convert(
            source: source.pointer, source_type: TANDEM_FLOAT32, source_stride: 6,
            destination: result.pointer, destination_stride: 6, rows: 1, columns: 6, transposed: 0)
        #expect(set.kernels.pointee.convert(&arguments) == 2)
        let values = result.elements.map { Float16(bitPattern: $0) }
        #expect(values[1].isNaN)
        #expect(values[0] == .infinity && values[2] == -.infinity && values[3] == 65504)
        #expect(values[4] == .infinity && values[5] == -.infinity)
    }
}

/// The value that the type holds after rounding, and its bytes. Halves that would be infinite become 1.
private func encoded(_ value: Float, as type: tandem_scalar_type) -> (Float, [UInt8]) {
    switch type {
    case TANDEM_FLOAT16:
        let half = Float16(value).isFinite ? Float16(value) : 1
        let bits = half.bitPattern
        return (Float(half), [UInt8(truncatingIfNeeded: bits), UInt8(bits >> 8)])
    case TANDEM_BFLOAT16:
        let bits = UInt16(value.bitPattern >> 16)
        let rounded = Float(bitPattern: UInt32(bits) << 16)
        return (rounded, [UInt8(truncatingIfNeeded: bits), UInt8(bits >> 8)])
    default:
        let bits = value.bitPattern
        return (value, [0, 8, 16, 24].map { UInt8(truncatingIfNeeded: bits >> $0) })
    }
}
