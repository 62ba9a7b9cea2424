/// Random inputs of a matrix product, and the judgement of its result.
struct ProductData {
    let rows, inputs, outputs: Int
    let isTransposed: Bool
    /// [rows, xStride]; what is behind the inputs is no number.
    private(set) var x: [Float16]
    let xStride: Int
    /// [outputs, inputs], or [inputs, outputs]; none where they are in tiles.
    let weights: [Float16]
    let tiles: QuantizedTiles?
    let bias: [Float]?
    var activation: UInt32
    /// What the sums are added to, [rows, outputs].
    var initial: [Float]?

    /// The multiplications that a judgement does at most, beyond which it looks at some elements only.
    private static let mostMultiplications = 1 << 20

    init(
        _ product: ProductVariant, _ random: inout RandomValues, isTransposed: Bool = false,
        hasBias: Bool = true, tiles: QuantizedTiles? = nil
    ) {
        rows = product.rows
        inputs = product.inputs
        outputs = product.outputs
        self.isTransposed = isTransposed
        activation = product.activation
        xStride = inputs + 8
        var x = random.halves(rows * xStride)
        for row in 0..<rows {
            for i in inputs..<xStride { x[row * xStride + i] = .nan }
        }
        self.x = x
        weights = tiles == nil ? random.halves(inputs * outputs) : []
        self.tiles = tiles
        bias = product.hasBias && hasBias ? random.floats(outputs) : nil
    }

    /// Takes other inputs, rounded, row by row.
    mutating func replaceInputs(_ inputsOfRow: (Int) -> [Double]) {
        for row in 0..<rows {
            for (i, value) in inputsOfRow(row).enumerated() { x[row * xStride + i] = Float16(value) }
        }
    }

    /// The scalar reference's element.
    func reference(row: Int, output: Int) -> Double {
        let sum =
            tiles?.product(x, at: row * xStride, output: output, count: inputs)
            ?? ScalarReference.product(
                x, at: row * xStride, weights, at: isTransposed ? output : output * inputs,
                stride: isTransposed ? outputs : 1, count: inputs)
        return ScalarReference.activated(sum + Double(bias?[output] ?? 0), activation)
            + Double(initial?[row * outputs + output] ?? 0)
    }

    /// Compares a result, [rows, stride]. Every element must be a number, and what is behind the outputs untouched.
    func judge(_ found: [Float16], stride: Int) -> Deviation {
        judge(stride: stride) {
            Double(found[$0])
        } isNumber: {
            found[$0].bitPattern & 0x7c00 != 0x7c00
        }
    }

    func judge(_ found: [Float], stride: Int) -> Deviation {
        judge(stride: stride) {
            Double(found[$0])
        } isNumber: {
            found[$0].bitPattern & 0x7f80_0000 != 0x7f80_0000
        }
    }

    /// `isNumber` looks at the bits: this is the innermost loop, in debug builds too.
    private func judge(stride: Int, _ found: (Int) -> Double, isNumber: (Int) -> Bool) -> Deviation {
        var deviation = Deviation()
        for (row, output) in comparedElements() {
            deviation.add(found(row * stride + output), reference(row: row, output: output))
        }
        var missingCount = 0
        var strayCount = 0
        for row in 0..<rows {
            var column = 0
            while column < stride {
                if isNumber(row * stride + column) != (column < outputs) {
                    if column < outputs { missingCount += 1 } else { strayCount += 1 }
                }
                column += 1
            }
        }
        deviation.note(
            "\(missingCount) of \(rows * outputs) results are no number", unless: missingCount == 0)
        deviation.note("\(strayCount) elements behind the results were written", unless: strayCount == 0)
        return deviation
    }

    /// All elements, or as many as may be computed, spread over all rows and outputs, the last one included.
    private func comparedElements() -> [(row: Int, output: Int)] {
        let total = rows * outputs
        let count = min(total, max(64, Self.mostMultiplications / inputs))
        // Steps of the golden section meet every row and output evenly; without a common divisor none twice.
        var step = count == total ? 1 : Int(0.618_034 * Double(total))
        while greatestCommonDivisor(step, total) != 1 { step += 1 }
        return (0..<count).map { number in
            let element = total - 1 - number * step % total
            return (element / outputs, element % outputs)
        }
    }

    private func greatestCommonDivisor(_ a: Int, _ b: Int) -> Int {
        b == 0 ? a : greatestCommonDivisor(b, a % b)
    }
}
