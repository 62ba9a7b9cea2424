import CPUKernels
import Glibc
import Testing

struct AttentionShape: CustomTestStringConvertible, Sendable {
    var queries: Int
    var headDimension: Int
    var firstPosition: Int
    var testDescription: String { "\(queries) queries of \(headDimension) from \(firstPosition)" }
}

@Suite struct AttentionTests {
    // The last ones pass the blocks of positions and of queries.
    static let shapes = [
        AttentionShape(queries: 1, headDimension: 1, firstPosition: 0),
        AttentionShape(queries: 1, headDimension: 64, firstPosition: 0),
        AttentionShape(queries: 1, headDimension: 80, firstPosition: 6),
        AttentionShape(queries: 1, headDimension: 100, firstPosition: 333),
        AttentionShape(queries: 3, headDimension: 33, firstPosition: 20),
        AttentionShape(queries: 4, headDimension: 128, firstPosition: 0),
        AttentionShape(queries: 7, headDimension: 7, firstPosition: 0),
        AttentionShape(queries: 33, headDimension: 64, firstPosition: 7),
        AttentionShape(queries: 64, headDimension: 80, firstPosition: 1),
        AttentionShape(queries: 1, headDimension: 9, firstPosition: 2100),
        AttentionShape(queries: 2, headDimension: 9, firstPosition: 1023),
        AttentionShape(queries: 9, headDimension: 10, firstPosition: 509),
        AttentionShape(queries: 203, headDimension: 11, firstPosition: 100),
    ]

    @Test(arguments: KernelSet.all, shapes)
    func `attention agrees with the scalar reference`(set: KernelSet, shape: AttentionShape) {
        let kernels = set.kernels.pointee
        let width = shape.headDimension
        let positions = shape.firstPosition + shape.queries
        var random = SplitMix64(positions + width)
        var queries = Matrix.random(shape.queries, width, &random)
        // Scores far apart, so that most of softmax's range is met and the running maximum moves.
        for index in queries.elements.indices { queries.elements[index] *= 4 }
        let keys = Matrix.randomHalves(positions, width, &random)
        let values = Matrix.randomHalves(positions, width, &random)

        let queryBuffer = FencedBuffer(queries, stride: width + 5)
        let keyBuffer = FencedBuffer(keys.halves)
        let valueBuffer = FencedBuffer(values.halves)
        let scratch = FencedBuffer<Float>(count: kernels.attention_scratch_count(positions))
        let out = FencedBuffer<Float>(rows: shape.queries, columns: width, stride: width + 2)
        var arguments = tandem_attention(
            queries: queryBuffer.pointer, query_stride: width + 5, keys: keyBuffer.pointer,
            values: valueBuffer.pointer, out: out.pointer, out_stride: width + 2,
            query_count: shape.queries, head_dim: width, first_position: shape.firstPosition,
            scratch: scratch.pointer, cache_bits: 16)
        kernels.attention(&arguments)

        let reference = attentionReference(shape, queries: queries, keys: keys, values: values)
        #expect(firstError(in: out, stride: width + 2, columns: width, reference, .attention) == nil)
        #expect(out.gapsAreIntact(rows: shape.queries, columns: width, stride: width + 2))
        #expect(scratch.frontIsIntact)
    }

    @Test(arguments: KernelSet.all)
    func `attention stays finite where scores are large`(set: KernelSet) {
        let kernels = set.kernels.pointee
        for queryCount in [1, 20] {
            let queries = FencedBuffer([Float](repeating: 1e4, count: queryCount * 8))
            let keys = FencedBuffer((0..<queryCount * 8).map { Float16($0 / 8 % 2 == 0 ? 9 : -9).bitPattern })
            let values = FencedBuffer((0..<queryCount * 8).map { Float16($0 / 8 % 2).bitPattern })
            let scratch = FencedBuffer<Float>(count: kernels.attention_scratch_count(queryCount))
            let out = FencedBuffer<Float>(count: queryCount * 8)
            var arguments = tandem_attention(
                queries: queries.pointer, query_stride: 8, keys: keys.pointer, values: values.pointer,
                out: out.pointer, out_stride: 8, query_count: queryCount, head_dim: 8, first_position: 0,
                scratch: scratch.pointer, cache_bits: 16)
            kernels.attention(&arguments)
            #expect(out.elements.allSatisfy { abs($0) < 1e-30 })
        }
    }
}

func attentionReference(
    _ shape: AttentionShape, queries: Matrix, keys: Matrix, values: Matrix
) -> [Reference] {
    let width = shape.headDimension
    var result: [Reference] = []
    for query in 0..<shape.queries {
        let visible = shape.firstPosition + query + 1
        let scores = (0..<visible).map { position in
            var sum = 0.0
            for i in 0..<width { sum += Double(queries[query, i]) * Double(keys[position, i]) }
            return sum
        }
        let maximum = scores.max()!
        let weights = scores.map { exp($0 - maximum) }
        let total = weights.reduce(0, +)
        for i in 0..<width {
            var sum = 0.0
            for position in 0..<visible { sum += weights[position] * Double(values[position, i]) }
            // Scores are rounded at their own magnitude, which the exponential makes relative to the result.
            result.append(Reference(value: sum / total, magnitude: 1 + abs(maximum)))
        }
    }
    return result
}
