import CPUKernels
import Testing

/// A key or value in 4 bits, as docs/quantization.md has it, read back in plain loops.
private func expanded(_ position: UnsafePointer<UInt8>, _ dimension: Int) -> (values: [Float], steps: [Float])
{
    var values = Array(repeating: Float(0), count: dimension)
    var steps = values
    let scales = UnsafeRawPointer(position + dimension / 2)
    for (group, first) in stride(from: 0, to: dimension, by: 64).enumerated() {
        let half = min(64, dimension - first) / 2
        func number(_ index: Int) -> Float {
            Float(Float16(bitPattern: scales.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)))
        }
        let (scale, minimum) = (number(2 * group), number(2 * group + 1))
        for byte in 0..<half {
            let code = position[first / 2 + byte]
            values[first + byte] = minimum + scale * Float(code & 15)
            values[first + half + byte] = minimum + scale * Float(code >> 4)
        }
        for index in first..<first + 2 * half { steps[index] = scale }
    }
    return (values, steps)
}

@Suite struct QuantizedCacheTests {
    static let dimensions = [16, 32, 64, 80, 96, 128, 256]

    @Test(arguments: KernelSet.all, dimensions)
    func `no element is more than half a step off`(set: KernelSet, dimension: Int) {
        var random = SplitMix64(dimension)
        let byteCount = tandem_quantized_position_bytes(dimension)
        #expect(byteCount == dimension / 2 + 4 * ((dimension + 63) / 64))
        for factor: Float in [1, 0, 1e-7, 300, 60000] {
            var row = Matrix.random(1, dimension, &random).elements.map { $0 * factor }
            if factor == 1 { for index in 0..<16 { row[index] = -0.1 } }
            let source = FencedBuffer(row)
            let position = FencedBuffer<UInt8>(count: byteCount)
            set.kernels.pointee.quantize_position(source.pointer, position.pointer, dimension)
            let (values, steps) = expanded(position.pointer, dimension)
            for index in 0..<dimension {
                #expect(abs(values[index] - row[index]) <= steps[index] * 0.5001 + abs(row[index]) * 1e-6)
            }
            #expect(position.frontIsIntact)
        }
    }

    @Test(
        arguments: KernelSet.all,
        AttentionTests.shapes.filter { $0.headDimension % 16 == 0 } + [
            AttentionShape(queries: 1, headDimension: 32, firstPosition: 2100),
            AttentionShape(queries: 150, headDimension: 16, firstPosition: 600),
            AttentionShape(queries: 5, headDimension: 128, firstPosition: 900),
        ])
    func `attention over 4 bits is that over what they stand for`(set: KernelSet, shape: AttentionShape) {
        let kernels = set.kernels.pointee
        let dimension = shape.headDimension
        let positions = shape.firstPosition + shape.queries
        var random = SplitMix64(positions + dimension)
        let byteCount = tandem_quantized_position_bytes(dimension)
        let queries = FencedBuffer(Matrix.random(shape.queries, dimension, &random), stride: dimension)
        func cache() -> (quantized: FencedBuffer<UInt8>, halves: FencedBuffer<UInt16>) {
            let quantized = FencedBuffer<UInt8>(count: positions * byteCount)
            let halves = FencedBuffer<UInt16>(count: positions * dimension)
            for position in 0..<positions {
                let row = Matrix.random(1, dimension, &random).elements
                kernels.quantize_position(row, quantized.pointer + position * byteCount, dimension)
                let (values, _) = expanded(quantized.pointer + position * byteCount, dimension)
                for (index, value) in values.enumerated() {
                    halves.pointer[position * dimension + index] = Float16(value).bitPattern
                }
            }
            return (quantized, halves)
        }
        let (keys, values) = (cache(), cache())
        let scratch = UnsafeMutableRawPointer.allocate(
            byteCount: 4 * kernels.attention_scratch_count(positions), alignment: 64
        ).assumingMemoryBound(to: Float.self)
        defer { scratch.deallocate() }
        func attend(_ keys: UnsafeRawPointer, _ values: UnsafeRawPointer, bits: Int32) -> [Float] {
            let out = FencedBuffer<Float>(
                rows: shape.queries, columns: dimension, stride: dimension)
            var arguments = tandem_attention(
                queries: queries.pointer, query_stride: dimension, keys: keys, values: values,
                out: out.pointer, out_stride: dimension, query_count: shape.queries, head_dim: dimension,
                first_position: shape.firstPosition, scratch: scratch, cache_bits: bits)
            kernels.attention(&arguments)
            return out.elements
        }
        let found = attend(keys.quantized.pointer, values.quantized.pointer, bits: 4)
        let expected = attend(keys.halves.pointer, values.halves.pointer, bits: 16)
        #expect(zip(found, expected).allSatisfy { abs($0 - $1) < 1e-4 })
    }
}
