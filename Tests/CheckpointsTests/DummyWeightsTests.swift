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

    private func moments(_ values: [Float]) -> (mean: Double, deviation: Double) {
        let mean = values.reduce(0) { $0 + Double($1) } / Double(values.count)
        let squares = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
        return (mean, (squares / Double(values.count)).squareRoot())
    }

    @Test func `weights are centred with a standard deviation of 0,02, biases are small, layer norms near 1`()
        throws
    {
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

    // MARK: Tiles

    /// Matrices in both orders, with groups of all sizes, and one with heads of 80.
    private static let layouts = [Quantization.fourBits, .eightBits].flatMap { quantization in
        [
            QuantizedLayout(quantization, .byOutputs, outputs: 128, inputs: 240),
            QuantizedLayout(quantization, .byInputs, outputs: 128, inputs: 224),
            QuantizedLayout(quantization, .byInputs, outputs: 96, inputs: 240, period: 80),
            QuantizedLayout(quantization, .byOutputs, outputs: 48, inputs: 16),
        ]
    }

    /// Of a matrix with the layout's sizes.
    private func tiles(_ layout: QuantizedLayout, _ units: Range<Int>? = nil, seed: UInt64 = 1) throws
        -> [UInt8]
    {
        let source = weights(seed: seed, shape: [layout.outputs, layout.inputs])
        #expect(try source.holdsTiles(of: weight, layout))
        let block = TileBlock(name: weight, layout: layout, units: units ?? 0..<layout.unitCount)
        // With bytes on either side, which nothing may touch.
        var memory = [UInt8](repeating: 0xA5, count: block.bytes.count + 16)
        try memory.withUnsafeMutableBytes { try source.readTiles(block, into: $0.baseAddress! + 8) }
        #expect(memory.prefix(8).allSatisfy { $0 == 0xA5 } && memory.suffix(8).allSatisfy { $0 == 0xA5 })
        return Array(memory.dropFirst(8).dropLast(8))
    }

    @Test(arguments: layouts)
    func `a part of a matrix has the tiles of the whole`(layout: QuantizedLayout) throws {
        let whole = try tiles(layout)
        #expect(whole.count == layout.byteCount)
        for first in 0..<layout.unitCount {
            for end in first...layout.unitCount {
                let bytes = layout.offset(ofUnit: first)..<layout.offset(ofUnit: end)
                #expect(try tiles(layout, first..<end) == Array(whole[bytes]))
            }
        }
        #expect(try tiles(layout) == whole)
        // The upper bytes of scales and minimums are alike: of a tile of 16 inputs a sixth of its bytes.
        #expect(try zip(whole, tiles(layout, seed: 2)).count { $0 == $1 } < whole.count / 4)
    }

    @Test func `no two tiles are equal`() throws {
        let layout = QuantizedLayout(.fourBits, .byOutputs, outputs: 512, inputs: 512)
        let whole = try tiles(layout)
        let size = Quantization.fourBits.tileByteCount(inputs: 64)
        let all = Set(stride(from: 0, to: whole.count, by: size).map { Array(whole[$0..<$0 + size]) })
        #expect(all.count == 32 * 8)
    }

    @Test(arguments: [Quantization.fourBits, .eightBits], [QuantizedLayout.Order.byOutputs, .byInputs])
    func `weights of tiles are spread as those in fp16 are, and none is 0`(
        quantization: Quantization, order: QuantizedLayout.Order
    ) throws {
        let layout = QuantizedLayout(quantization, order, outputs: 256, inputs: 320)
        let bytes = try tiles(layout)
        func half(_ offset: Int) -> Float {
            Float(Float16(bitPattern: UInt16(bytes[offset]) | UInt16(bytes[offset + 1]) << 8))
        }
        var all: [Float] = []
        var scales: Set<Float> = []
        for output in 0..<layout.outputs {
            for group in 0..<layout.groupCount {
                let tile = layout.offset(block: output / 16, group: group)
                let inputs = layout.inputs(ofGroup: group).count
                let scaleAt =
                    tile + quantization.tileByteCount(inputs: inputs) - 64
                    + 2 * Quantization.position(ofOutput: output % 16)
                let (scale, minimum) = (half(scaleAt), half(scaleAt + 32))
                scales.insert(scale)
                let values = (0..<inputs).map { input in
                    let place = quantization.place(output: output % 16, input: input)
                    let code = Int(bytes[tile + place.byte]) >> place.shift & quantization.mostCode
                    return minimum + scale * Float(code)
                }
                // 64 codes of 16 leave out one half of them once in 10^19 groups.
                #expect(values.min()! < 0 && values.max()! > 0)
                #expect(values.allSatisfy { abs($0) > 0.1 * scale && abs($0) < 0.0625 })
                all += values
            }
        }
        #expect(scales.count == 16)
        // 81920 values, as above.
        #expect(abs(moments(all).mean) < 0.0003 && abs(moments(all).deviation - 0.0198) < 0.0003)
        #expect(abs(moments(all.filter { $0 < 0 }).mean + 0.0172) < 0.0003)
    }

    @Test func `tiles of another shape are refused`() throws {
        expectError(.wrongShape, tensor: weight, "[61, 203]", "[64, 208]") {
            _ = try weights().holdsTiles(
                of: weight, QuantizedLayout(.fourBits, .byOutputs, outputs: 64, inputs: 208))
        }
    }
}
