import Checkpoints
import TensorCore
import Testing

struct DummyWeightsTests {
    private let weight = "decoder.layers.0.fc1.weight"
    private let bias = "decoder.layers.0.fc1.bias"
    private let layerNorm = "decoder.layers.0.final_layer_norm.weight"

    private func weights(seed: UInt64 = 1, shape: Shape = [61, 203]) -> DummyWeights {
        DummyWeights(
            specifications: [
                .init(name: weight, shape: shape, scalarType: .float16),
                .init(name: bias, shape: [4001], scalarType: .float32),
                .init(name: layerNorm, shape: [4001], scalarType: .float16),
            ], seed: seed)
    }

    @Test func `a block is the same whichever way it is asked for`() throws {
        let source = weights()
        let whole = try readBlock(source, TensorBlock(name: weight, rows: 0..<61, columns: 0..<203))
        for rows in [0..<61, 1..<2, 17..<60] {
            for columns in [0..<203, 1..<2, 2..<9, 3..<199, 5..<7, 4..<8] {
                let block = TensorBlock(name: weight, rows: rows, columns: columns)
                let expected = rows.flatMap { row in columns.map { whole[row * 203 + $0] } }
                #expect(try readBlock(source, block, padding: 3) == expected)
                let transposed = columns.flatMap { column in rows.map { whole[$0 * 203 + column] } }
                #expect(try readBlock(source, block, transposed: true, padding: 3) == transposed)
            }
        }
    }

    @Test func `a vector is the same in fp32 as in fp16`() throws {
        let source = weights()
        let halves = try readBlock(source, TensorBlock(name: bias, rows: 0..<1, columns: 3..<4001))
        #expect(
            try readVector(source, bias, 3..<4001) == halves.map { Float(Float16(bitPattern: $0)) })
    }

    @Test func `values depend on the seed and on the name`() throws {
        let block = TensorBlock(name: weight, rows: 0..<61, columns: 0..<203)
        let first = try readBlock(weights(), block)
        #expect(first == (try readBlock(weights(), block)))
        func equalCount(_ other: [UInt16]) -> Int { zip(first, other).count { $0 == $1 } }
        #expect(equalCount(try readBlock(weights(seed: 2), block)) < 100)
        let other = DummyWeights(
            specifications: [
                .init(name: "decoder.layers.1.fc1.weight", shape: [61, 203], scalarType: .float16)
            ],
            seed: 1)
        let renamed = TensorBlock(name: "decoder.layers.1.fc1.weight", rows: 0..<61, columns: 0..<203)
        #expect(equalCount(try readBlock(other, renamed)) < 100)
    }

    @Test func `weights are centred with a standard deviation of 0,02, biases are small, layer norms near 1`()
        throws
    {
        func moments(_ values: [Float]) -> (mean: Double, deviation: Double) {
            let mean = values.reduce(0) { $0 + Double($1) } / Double(values.count)
            let squares = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
            return (mean, (squares / Double(values.count)).squareRoot())
        }
        let source = weights(shape: [300, 301])
        let bits = try readBlock(source, TensorBlock(name: weight, rows: 0..<300, columns: 0..<301))
        let values = bits.map { Float(Float16(bitPattern: $0)) }
        #expect(values.allSatisfy { $0 != 0 && abs($0) < 0.0625 })
        let ofWeights = moments(values)
        // 90300 values: the mean's own deviation is 0.00007.
        #expect(abs(ofWeights.mean) < 0.0003 && abs(ofWeights.deviation - 0.0198) < 0.0005)
        for lane in 0..<4 {
            let ofLane = moments(stride(from: lane, to: values.count, by: 4).map { values[$0] })
            #expect(abs(ofLane.mean) < 0.0006 && abs(ofLane.deviation - 0.0198) < 0.0008)
        }

        let biases = try readVector(source, bias, 0..<4001)
        #expect(biases.allSatisfy { $0 != 0 } && abs(moments(biases).deviation - 0.005) < 0.0005)
        let scales = try readVector(source, layerNorm, 0..<4001)
        #expect(scales.allSatisfy { $0 != 1 && abs($0 - 1) < 0.1 })
        #expect(abs(moments(scales).mean - 1) < 0.03)
    }

    @Test func `names a tensor that is not there, or has another shape`() throws {
        expectError(.missingTensor, tensor: "decoder.no", "_DUMMY_") {
            _ = try readBlock(weights(), TensorBlock(name: "decoder.no", rows: 0..<1, columns: 0..<1))
        }
        expectError(.wrongShape, tensor: weight, "[61, 203]", "[61, 204]") {
            try weights().require(weight, shape: [61, 204])
        }
        #expect(try weights().require(bias, shape: [4001]).scalarType == .float16)
    }
}
