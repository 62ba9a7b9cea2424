import CPUKernels
import Testing

@Suite struct ElementwiseTests {
    static let widths = [1, 7, 8, 33, 64, 80, 100, 768]

    @Test(arguments: KernelSet.all, widths)
    func `layer_norm agrees with the scalar reference, also in place`(set: KernelSet, width: Int) {
        var random = SplitMix64(width)
        for (rows, offset) in [(1, Float(0)), (3, Float(100))] {
            var x = Matrix.random(rows, width, &random)
            for index in x.elements.indices { x.elements[index] += offset }
            let weight = Matrix.random(1, width, &random)
            let bias = Matrix.random(1, width, &random)
            let reference = layerNormReference(x, weight: weight, bias: bias, epsilon: 1e-5)

            let weightBuffer = FencedBuffer(weight.elements)
            let biasBuffer = FencedBuffer(bias.elements)
            for inPlace in [false, true] {
                let stride = width + 2
                let source = FencedBuffer(x, stride: stride)
                let y = inPlace ? source : FencedBuffer<Float>(rows: rows, columns: width, stride: stride)
                var arguments = tandem_layer_norm(
                    x: source.pointer, x_stride: stride, y: y.pointer, y_stride: stride,
                    weight: weightBuffer.pointer, bias: biasBuffer.pointer, rows: rows, width: width,
                    epsilon: 1e-5)
                set.kernels.pointee.layer_norm(&arguments)
                #expect(firstError(in: y, stride: stride, columns: width, reference, .layerNorm) == nil)
                #expect(y.gapsAreIntact(rows: rows, columns: width, stride: stride))
            }
        }
    }

    @Test(arguments: KernelSet.all)
    func `layer_norm without weight and bias only normalises`(set: KernelSet) {
        let x = FencedBuffer<Float>([1, 2, 3, 4, 5])
        let y = FencedBuffer<Float>(count: 5)
        var arguments = tandem_layer_norm(
            x: x.pointer, x_stride: 5, y: y.pointer, y_stride: 5, weight: nil, bias: nil, rows: 1, width: 5,
            epsilon: 0)
        set.kernels.pointee.layer_norm(&arguments)
        let unit = 1 / Float(2).squareRoot()
        for (value, expected) in zip(y.elements, [-2, -1, 0, 1, 2].map { $0 * unit }) {
            #expect(abs(value - expected) < 1e-6)
        }
    }

    @Test(arguments: KernelSet.all, widths)
    func `join adds the bias and every partial sum`(set: KernelSet, width: Int) {
        var random = SplitMix64(width)
        for (rows, partials) in [(1, 0), (1, 1), (3, 2), (2, 5)] {
            let x = Matrix.random(rows, width, &random)
            let parts = (0..<partials).map { _ in Matrix.random(rows, width, &random) }
            let bias = partials == 2 ? nil : Matrix.random(1, width, &random).elements
            let stride = width + 1
            var reference: [Reference] = []
            for row in 0..<rows {
                for column in 0..<width {
                    let terms =
                        [Double(x[row, column]), Double(bias?[column] ?? 0)]
                        + parts.map { Double($0[row, column]) }
                    reference.append(
                        Reference(value: terms.reduce(0, +), magnitude: terms.map(abs).reduce(0, +)))
                }
            }
            let buffer = FencedBuffer(x, stride: stride)
            let partBuffer = FencedBuffer(parts.flatMap(\.elements))
            let biasBuffer = bias.map { FencedBuffer($0) }
            var arguments = tandem_join(
                x: buffer.pointer, x_stride: stride, bias: biasBuffer.map { UnsafePointer($0.pointer) },
                partials: partBuffer.pointer, partial_stride: rows * width, row_stride: width,
                partial_count: partials, rows: rows, width: width)
            set.kernels.pointee.join(&arguments)
            #expect(firstError(in: buffer, stride: stride, columns: width, reference, .join) == nil)
            #expect(buffer.gapsAreIntact(rows: rows, columns: width, stride: stride))
        }
    }

    @Test(arguments: KernelSet.all, widths)
    func `embed adds token and position exactly as fp32 does`(set: KernelSet, width: Int) {
        var random = SplitMix64(width)
        let token = Matrix.randomHalves(1, width, &random)
        let position = Matrix.randomHalves(1, width, &random)
        let tokenBuffer = FencedBuffer(token.halves)
        let positionBuffer = FencedBuffer(position.halves)
        let y = FencedBuffer<Float>(count: width)
        set.kernels.pointee.embed(tokenBuffer.pointer, positionBuffer.pointer, y.pointer, width)
        #expect(y.elements == zip(token.elements, position.elements).map { $0 + $1 })
        #expect(y.frontIsIntact)
    }
}

private func layerNormReference(
    _ x: Matrix, weight: Matrix, bias: Matrix, epsilon: Double
) -> [Reference] {
    var result: [Reference] = []
    for row in 0..<x.rows {
        let values = (0..<x.columns).map { Double(x[row, $0]) }
        let mean = values.reduce(0, +) / Double(values.count)
        let variance = values.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(values.count)
        let scale = 1 / (variance + epsilon).squareRoot()
        for (column, value) in values.enumerated() {
            let scaled = (value - mean) * scale * Double(weight.elements[column])
            // The mean of fp32 values is known to their last place, which the scale enlarges.
            let magnitude = abs(scaled) + abs(mean) * scale
            result.append(
                Reference(value: scaled + Double(bias.elements[column]), magnitude: magnitude))
        }
    }
    return result
}
