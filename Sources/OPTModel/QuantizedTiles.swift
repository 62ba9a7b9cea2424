import TensorCore

/// A quantized matrix of any size, quickly made also in a debug build: some random tiles, repeated.
struct QuantizedTiles {
    let layout: QuantizedLayout
    let bytes: [UInt8]

    init(_ layout: QuantizedLayout) {
        self.layout = layout
        var bytes = [UInt8](repeating: 0, count: layout.byteCount)
        bytes.withUnsafeMutableBytes { bytes in
            for group in 0..<layout.groupCount {
                let pool = Self.pool(layout, group)
                for block in 0..<layout.blockCount {
                    let at = layout.offset(block: block, group: group)
                    pool[Self.choice(block: block, group: group)].matrix.bytes.withUnsafeBytes {
                        UnsafeMutableRawBufferPointer(rebasing: bytes[at..<at + $0.count]).copyMemory(
                            from: $0)
                    }
                }
            }
        }
        self.bytes = bytes
    }

    /// The sum over the first `count` inputs of x[i] · W[output, i], from a place of x on.
    func product(_ x: [Float16], at start: Int, output: Int, count: Int) -> Double {
        var sum = 0.0
        for group in 0..<layout.groupCount {
            let inputs = layout.inputs(ofGroup: group)
            if inputs.lowerBound >= count { break }
            let block = output / Quantization.tileOutputs
            let weights = Self.pool(layout, group)[Self.choice(block: block, group: group)].weights
            let first = output % Quantization.tileOutputs * inputs.count
            var i = 0
            while i < inputs.count {
                sum += Double(x[start + inputs.lowerBound + i]) * weights[first + i]
                i += 1
            }
        }
        return sum
    }

    // MARK: The tiles

    private struct Tile: Sendable {
        let matrix: QuantizedMatrix
        let weights: [Double]  // [16, inputs]
    }

    /// A prime number, and steps with which neighbours in either direction are different tiles.
    private static let poolCount = 31
    private static func choice(block: Int, group: Int) -> Int { (7 * block + 3 * group) % poolCount }

    private static let pools = [4, 8].map { bits in
        [16, 32, 48, 64].map { makePool(Quantization(bits: bits)!, inputs: $0) }
    }

    private static func pool(_ layout: QuantizedLayout, _ group: Int) -> [Tile] {
        pools[layout.quantization.bits / 8][layout.inputs(ofGroup: group).count / 16 - 1]
    }

    private static func makePool(_ quantization: Quantization, inputs: Int) -> [Tile] {
        var random = RandomValues(seed: UInt64(quantization.bits * inputs))
        let layout = QuantizedLayout(
            quantization, .byOutputs, outputs: Quantization.tileOutputs, inputs: inputs)
        return (0..<poolCount).map { number in
            var weights = random.halves(Quantization.tileOutputs * inputs)
            // A group of equal weights, whose scale is 0.
            let constant = number % Quantization.tileOutputs
            for i in 0..<inputs { weights[constant * inputs + i] = weights[constant * inputs] }
            let matrix = QuantizedMatrix(layout, weights: weights)
            var decoded: [Double] = []
            for output in 0..<Quantization.tileOutputs {
                for input in 0..<inputs { decoded.append(matrix.weight(output: output, input: input)) }
            }
            return Tile(matrix: matrix, weights: decoded)
        }
    }
}
