import TensorCore
import Testing

@testable import OPTModel

/// The scalar reference of quantized weights.
struct QuantizedMatrixTests {
    private static let layouts: [QuantizedLayout] = [Quantization.fourBits, .eightBits].flatMap {
        quantization in
        [QuantizedLayout.Order.byOutputs, .byInputs].flatMap { order in
            [(16, 16, 64), (48, 144, 64), (32, 160, 80), (16, 96, 48)].map { outputs, inputs, period in
                QuantizedLayout(quantization, order, outputs: outputs, inputs: inputs, period: period)
            }
        }
    }

    @Test(arguments: layouts)
    func `no weight is more than half a step off`(layout: QuantizedLayout) {
        var random = RandomValues(seed: 3)
        let weights = random.halves(layout.outputs * layout.inputs)
        let matrix = QuantizedMatrix(layout, weights: weights)
        for index in 0..<layout.groupCount {
            let inputs = layout.inputs(ofGroup: index)
            for output in 0..<layout.outputs {
                let group = inputs.map { Double(weights[output * layout.inputs + $0]) }
                let step = (group.max()! - group.min()!) / Double(layout.quantization.mostCode)
                for (input, weight) in zip(inputs, group) {
                    // The scale is rounded up, by 2⁻¹⁰ at most.
                    #expect(
                        abs(matrix.weight(output: output, input: input) - weight) <= step / 2 * 1.001,
                        "output \(output), input \(input)")
                }
            }
        }
    }

    @Test(arguments: [4, 8])
    func `all codes are used, from the least weight to the largest`(bits: Int) {
        let quantization = Quantization(bits: bits)!
        let count = quantization.mostCode + 1
        let weights = (0..<count).map { Float16($0) / 64 - 1 }
        let group = QuantizedGroup(weights, mostCode: quantization.mostCode)
        #expect(group.codes == Array(0..<count))
        #expect(group.minimum == -1 && group.scale == 1 / 64)
    }

    @Test(arguments: [4, 8])
    func `equal weights have scale 0 and come back as they were`(bits: Int) {
        let layout = QuantizedLayout(Quantization(bits: bits)!, .byOutputs, outputs: 16, inputs: 64)
        let weight = Float16(0.3)
        let matrix = QuantizedMatrix(layout, weights: [Float16](repeating: weight, count: 16 * 64))
        #expect(QuantizedGroup([weight, weight], mostCode: 15).scale == 0)
        for output in 0..<16 {
            for input in 0..<64 { #expect(matrix.weight(output: output, input: input) == Double(weight)) }
        }
    }

    @Test func `the least difference of two weights is kept`() {
        let group = QuantizedGroup([0, .leastNonzeroMagnitude], mostCode: 15)
        #expect(group.scale == .leastNonzeroMagnitude && group.codes == [0, 1])
    }

    /// Worked out by hand from docs/quantization.md.
    @Test func `a tile has codes, scales and minimums at their places`() {
        let layout = QuantizedLayout(.fourBits, .byOutputs, outputs: 16, inputs: 16)
        // Output 9 has the weights 0 ... 15, all others are 2.
        var weights = [Float16](repeating: 2, count: 256)
        for input in 0..<16 { weights[9 * 16 + input] = Float16(input) }
        let bytes = QuantizedMatrix(layout, weights: weights).bytes
        #expect(bytes.count == 192)
        // Output 9 is at position 3.
        #expect(Array(bytes[12..<16]) == [0x40, 0x62, 0x51, 0x73])
        #expect(Array(bytes[76..<80]) == [0xc8, 0xea, 0xd9, 0xfb])
        #expect(Array(bytes[134..<136]) == [0x00, 0x3c])
        #expect(Array(bytes[166..<168]) == [0, 0])
        // Output 0.
        #expect(Array(bytes[0..<4]) == [0, 0, 0, 0])
        #expect(Array(bytes[160..<162]) == [0x00, 0x40])
    }
}
