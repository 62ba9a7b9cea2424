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

    /// A few queries multiply codes; for many, elements are rounded to fp16 first.
    @Test(
        arguments: KernelSet.all,
        AttentionTests.shapes.filter { $0.headDimension % 16 == 0 } + [
            AttentionShape(queries: 1, headDimension: 32, firstPosition: 2100),
            AttentionShape(queries: 150, headDimension: 16, firstPosition: 600),
            AttentionShape(queries: 5, headDimension: 128, firstPosition: 900),
        ])
    func `attention over 4 bits is that over what they stand for`(set: KernelSet, shape: AttentionShape) {
        let cached = CachedAttention(set, shape)
        let found = cached.attend(bits: 4)
        let expected = shape.queries <= 4 ? cached.exact : cached.attend(bits: 16)
        #expect(zip(found, expected).allSatisfy { abs($0 - $1) < 1e-4 })
    }

    /// Elements are within -1 ... 1, so that rounding one to fp16 may take 2^-12.
    @Test(arguments: KernelSet.all, dimensions)
    func `multiplying codes costs less than fp16 would, whatever the count of positions`(
        set: KernelSet, dimension: Int
    ) {
        for firstPosition in Array(0..<70) + [127, 500, 1023, 1024, 1100] {
            let shape = AttentionShape(
                queries: 1 + firstPosition % 4, headDimension: dimension, firstPosition: firstPosition)
            let cached = CachedAttention(set, shape)
            let pairs = zip(cached.attend(bits: 4), cached.exact)
            #expect(pairs.allSatisfy { abs($0 - $1) < 0x1p-12 }, "\(shape)")
        }
    }

    @Test(arguments: KernelSet.all)
    func `positions of small weight count beside one of large weight`(set: KernelSet) {
        // Each of 1500 positions has 1 / 2981 of the first one's weight, 10.9 of what numbers are rounded to:
        // with one scale for all of them the result would be 3e-3 off.
        let shape = AttentionShape(queries: 1, headDimension: 64, firstPosition: 1500)
        let cached = CachedAttention(set, shape)
        for index in 0..<64 { cached.queries.pointer[index] = index == 0 ? 8 : 0 }
        for position in 0...shape.firstPosition {
            cached.store(
                key: (0..<64).map { $0 > 0 ? 0 : position == 0 ? 1 : 0 },
                value: (0..<64).map { position == 0 ? -Float($0) / 64 : Float($0) / 64 }, at: position)
        }
        #expect(zip(cached.attend(bits: 4), cached.exact).allSatisfy { abs($0 - $1) < 0x1p-12 })
    }
}

/// A head's cache in 4 bits, what it stands for, and queries.
private final class CachedAttention {
    let set: KernelSet
    let shape: AttentionShape
    let queries: FencedBuffer<Float>
    private let positions: Int
    private let byteCount: Int
    private let keys, values: FencedBuffer<UInt8>
    private var expandedKeys, expandedValues: Matrix

    init(_ set: KernelSet, _ shape: AttentionShape) {
        self.set = set
        self.shape = shape
        let dimension = shape.headDimension
        positions = shape.firstPosition + shape.queries
        byteCount = tandem_quantized_position_bytes(dimension)
        var random = SplitMix64(positions + dimension)
        queries = FencedBuffer(Matrix.random(shape.queries, dimension, &random), stride: dimension)
        keys = FencedBuffer(count: positions * byteCount)
        values = FencedBuffer(count: positions * byteCount)
        expandedKeys = Matrix(
            rows: positions, columns: dimension,
            elements: Array(repeating: 0, count: positions * dimension))
        expandedValues = expandedKeys
        let sources = (0..<2).map { _ in Matrix.random(positions, dimension, &random).elements }
        for position in 0..<positions {
            let row = position * dimension..<(position + 1) * dimension
            store(key: Array(sources[0][row]), value: Array(sources[1][row]), at: position)
        }
    }

    func store(key: [Float], value: [Float], at position: Int) {
        let dimension = shape.headDimension
        let row = position * dimension..<(position + 1) * dimension
        let (keyBytes, valueBytes) = (
            keys.pointer + position * byteCount, values.pointer + position * byteCount
        )
        set.kernels.pointee.quantize_position(key, keyBytes, dimension)
        set.kernels.pointee.quantize_position(value, valueBytes, dimension)
        expandedKeys.elements.replaceSubrange(row, with: expanded(keyBytes, dimension).values)
        expandedValues.elements.replaceSubrange(row, with: expanded(valueBytes, dimension).values)
    }

    /// Over the elements that the codes stand for, in double precision.
    var exact: [Float] {
        let dimension = shape.headDimension
        let queries = Matrix(rows: shape.queries, columns: dimension, elements: queries.elements)
        return attentionReference(shape, queries: queries, keys: expandedKeys, values: expandedValues)
            .map { Float($0.value) }
    }

    /// Over the codes, or over elements rounded to fp16.
    func attend(bits: Int32) -> [Float] {
        let kernels = set.kernels.pointee
        let dimension = shape.headDimension
        let halves = (FencedBuffer(expandedKeys.halves), FencedBuffer(expandedValues.halves))
        let scratch = UnsafeMutableRawPointer.allocate(
            byteCount: 4 * kernels.attention_scratch_count(positions), alignment: 64
        ).assumingMemoryBound(to: Float.self)
        defer { scratch.deallocate() }
        let out = FencedBuffer<Float>(rows: shape.queries, columns: dimension, stride: dimension)
        var arguments = tandem_attention(
            queries: queries.pointer, query_stride: dimension,
            keys: bits == 4 ? UnsafeRawPointer(keys.pointer) : UnsafeRawPointer(halves.0.pointer),
            values: bits == 4 ? UnsafeRawPointer(values.pointer) : UnsafeRawPointer(halves.1.pointer),
            out: out.pointer, out_stride: dimension, query_count: shape.queries, head_dim: dimension,
            first_position: shape.firstPosition, scratch: scratch, cache_bits: bits)
        kernels.attention(&arguments)
        return out.elements
    }
}
