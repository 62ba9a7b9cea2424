import CPUKernels
import TensorCore
import Testing

/// A quantized matrix made as docs/quantization.md says, in plain loops.
private struct QuantizedReference {
    let layout: QuantizedLayout
    private(set) var tiles: [UInt8]
    /// What the codes stand for.
    private(set) var weights: Matrix
    /// The steps of the groups that the weights are in.
    private(set) var steps: [Float]

    /// - Parameter matrix: [outputs, inputs], of values that a half can hold.
    init(_ matrix: Matrix, _ layout: QuantizedLayout) {
        self.layout = layout
        tiles = Array(repeating: 0, count: layout.byteCount)
        weights = matrix
        steps = Array(repeating: 0, count: matrix.elements.count)
        let most = Float(layout.quantization.mostCode)
        for group in 0..<layout.groupCount {
            let inputs = layout.inputs(ofGroup: group)
            for output in 0..<layout.outputs {
                let values = inputs.map { matrix[output, $0] }
                let least = values.min()!
                var scale = Float16((values.max()! - least) / most)
                if Float(scale) < (values.max()! - least) / most { scale = scale.nextUp }
                let codes = values.map {
                    scale == 0 ? 0 : min((($0 - least) / Float(scale)).rounded(.toNearestOrEven), most)
                }
                let tile = layout.offset(block: output / 16, group: group)
                for (input, code) in codes.enumerated() {
                    let (byte, shift) = layout.quantization.place(output: output % 16, input: input)
                    tiles[tile + byte] |= UInt8(code) << shift
                    let index = output * matrix.columns + inputs.lowerBound + input
                    weights.elements[index] = least + Float(scale) * code
                    steps[index] = Float(scale)
                }
                let scales = tile + inputs.count * layout.quantization.bits * 2
                let position = Quantization.position(ofOutput: output % 16)
                for (value, offset) in [(scale, 0), (Float16(least), 32)] {
                    tiles[scales + offset + 2 * position] = UInt8(value.bitPattern & 0xff)
                    tiles[scales + offset + 2 * position + 1] = UInt8(value.bitPattern >> 8)
                }
            }
        }
    }
}

@Suite struct QuantizedTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var bits: Int
        var order: QuantizedLayout.Order
        var inputs, outputs: Int
        var period = 64

        var layout: QuantizedLayout {
            QuantizedLayout(
                Quantization(bits: bits)!, order, outputs: outputs, inputs: inputs, period: period)
        }
        var testDescription: String {
            "\(bits) bits, \(order), \(inputs) inputs, \(outputs) outputs, period \(period)"
        }
    }

    static let cases = [4, 8].flatMap { bits in
        [(16, 16), (48, 64), (64, 16), (80, 48), (160, 112), (208, 16), (1008, 16), (336, 304)].flatMap {
            [
                Case(bits: bits, order: .byOutputs, inputs: $0, outputs: $1),
                Case(bits: bits, order: .byInputs, inputs: $0, outputs: $1),
            ]
        }
            + [16, 32, 80, 96, 144].map {
                Case(bits: bits, order: .byInputs, inputs: 3 * $0, outputs: 32, period: $0)
            }
    }

    static func tiles(_ matrix: Matrix, _ layout: QuantizedLayout, _ set: KernelSet) -> (
        bytes: FencedBuffer<UInt8>, notFiniteCount: Int
    ) {
        let bytes = FencedBuffer<UInt8>(count: layout.byteCount)
        var notFiniteCount = 0
        matrix.elements.map { Float16($0).bitPattern }.withUnsafeBufferPointer { halves in
            for group in 0..<layout.groupCount {
                let inputs = layout.inputs(ofGroup: group)
                for block in 0..<layout.blockCount {
                    var tile = tandem_quantize_tile(
                        weights: halves.baseAddress! + block * 16 * matrix.columns + inputs.lowerBound,
                        stride: matrix.columns, inputs: inputs.count, bits: Int32(layout.quantization.bits),
                        tile: bytes.pointer + layout.offset(block: block, group: group))
                    notFiniteCount += set.kernels.pointee.quantize_tile(&tile)
                }
            }
        }
        return (bytes, notFiniteCount)
    }

    @Test(arguments: KernelSet.all, cases)
    func `tiles are those of the scalar reference, and no weight is more than half a step off`(
        set: KernelSet, size: Case
    ) {
        var random = SplitMix64(size.inputs + size.outputs)
        var matrix = Matrix.randomHalves(size.outputs, size.inputs, &random)
        // A group of equal weights, one of zeros, the largest and the smallest halves.
        for input in 0..<16 {
            matrix.elements[input] = 0.3333
            matrix.elements[size.inputs + input] = 0
            matrix.elements[2 * size.inputs + input] = input % 2 == 0 ? 65504 : -65504
            matrix.elements[3 * size.inputs + input] = Float(input) * 0x1p-24
        }
        matrix.elements = matrix.elements.map { Float(Float16($0)) }
        let reference = QuantizedReference(matrix, size.layout)
        let (bytes, notFiniteCount) = Self.tiles(matrix, size.layout, set)
        #expect(bytes.elements == reference.tiles)
        #expect(bytes.frontIsIntact)
        #expect(notFiniteCount == 0)
        let isClose = matrix.elements.indices.allSatisfy {
            // fp32 rounds the sum of minimum and step.
            abs(reference.weights.elements[$0] - matrix.elements[$0])
                <= reference.steps[$0] / 2 + abs(matrix.elements[$0]) * 1e-6 + 0.01 * reference.steps[$0] / 2
        }
        #expect(isClose)
        if size.layout.inputs(ofGroup: 0).count == 16 {
            // Equal weights are kept as they are.
            #expect(reference.weights.elements[..<16] == matrix.elements[..<16])
        }
    }

    @Test(arguments: KernelSet.all) func `values that are not finite are counted`(set: KernelSet) {
        var random = SplitMix64(1)
        var matrix = Matrix.randomHalves(32, 80, &random)
        matrix.elements[3] = .infinity
        matrix.elements[1000] = -.infinity
        matrix.elements[2000] = .nan
        let layout = QuantizedLayout(.fourBits, .byOutputs, outputs: 32, inputs: 80)
        #expect(Self.tiles(matrix, layout, set).notFiniteCount == 3)
    }

    /// Activations are rounded to 15 bits, group by group.
    static let tolerance = Tolerance(relative: 6e-5, absolute: 1e-6)

    @Test(arguments: KernelSet.all, cases)
    func `products with few rows agree with the scalar reference`(set: KernelSet, size: Case) {
        let (inputs, outputs) = (size.inputs, size.outputs)
        var random = SplitMix64(inputs * 1000 + outputs)
        let quantized = QuantizedReference(
            Matrix.randomHalves(outputs, inputs, &random), size.layout)
        let tiles = FencedBuffer(quantized.tiles)
        for rows in [1, 2, 3, 4, 5, 7, 8, 9, 17, 31, 32] {
            let x = Matrix.random(rows, inputs, &random)
            let byOutputs = size.order == .byOutputs
            let bias = rows % 2 == 0 || !byOutputs ? nil : Matrix.random(1, outputs, &random).elements
            let activation =
                byOutputs ? [TANDEM_IDENTITY, TANDEM_RELU, TANDEM_GELU][rows % 3] : TANDEM_IDENTITY
            let (xStride, yStride) = (inputs + rows % 4, outputs + rows % 3)
            let xBuffer = FencedBuffer(x, stride: xStride)
            let biasBuffer = bias.map { FencedBuffer($0) }
            let y = FencedBuffer<Float>(rows: rows, columns: outputs, stride: yStride)
            let groups = FencedBuffer<UInt64>(
                count: size.layout.groupCount * rows * Int(TANDEM_QUANTIZED_GROUP_BYTES) / 8)
            var prepare = tandem_quantize_rows(
                x: xBuffer.pointer, x_stride: xStride, rows: rows, inputs: inputs, period: size.period,
                groups: groups.pointer)
            set.kernels.pointee.quantize_rows(&prepare)
            var product = tandem_linear_quantized(
                x: groups.pointer, weights: tiles.pointer, bits: Int32(size.bits),
                by_inputs: byOutputs ? 0 : 1, period: size.period,
                bias: biasBuffer.map { UnsafePointer($0.pointer) }, y: y.pointer, y_stride: yStride,
                rows: rows, inputs: inputs, outputs: outputs, activation: activation, accumulate: 0)
            set.kernels.pointee.linear_quantized(&product)
            let reference = productReference(
                x: x, weights: quantized.weights, bias: bias, activation: activation)
            let error = firstError(in: y, stride: yStride, columns: outputs, reference, Self.tolerance)
            #expect(error == nil, "\(rows) rows")
            #expect(y.gapsAreIntact(rows: rows, columns: outputs, stride: yStride))
            if byOutputs { continue }

            // Once more onto what is there.
            product.accumulate = 1
            set.kernels.pointee.linear_quantized(&product)
            let twice = reference.map { Reference(value: 2 * $0.value, magnitude: 2 * $0.magnitude) }
            #expect(firstError(in: y, stride: yStride, columns: outputs, twice, Self.tolerance) == nil)
        }
    }

    @Test(arguments: KernelSet.all, cases)
    func `products with many rows agree with the scalar reference, whichever outputs are wanted`(
        set: KernelSet, size: Case
    ) {
        let (inputs, outputs) = (size.inputs, size.outputs)
        let kernels = set.kernels.pointee
        var random = SplitMix64(inputs * 1000 + outputs)
        let quantized = QuantizedReference(Matrix.randomHalves(outputs, inputs, &random), size.layout)
        let tiles = FencedBuffer(quantized.tiles)
        let scratch = UnsafeMutablePointer<Float>.allocateAligned(count: kernels.gemm_scratch_count)
        defer { scratch.deallocate() }
        for rows in [33, 50] {
            let x = Matrix.random(rows, inputs, &random)
            let panels = (rows + kernels.gemm_panel_rows - 1) / kernels.gemm_panel_rows
            let packed = UnsafeMutablePointer<Float>.allocateAligned(
                count: panels * kernels.gemm_panel_rows * inputs)
            defer { packed.deallocate() }
            kernels.pack_rows(x.elements, inputs, rows, inputs, packed)
            let bias = Matrix.random(1, outputs, &random).elements
            for first in [0, outputs / 32 * 16] {
                let count = outputs - first
                let y = FencedBuffer<Float>(rows: rows, columns: count, stride: count + 1)
                bias.withUnsafeBufferPointer { bias in
                    var product = tandem_gemm_quantized(
                        packed_x: packed, weights: tiles.pointer, bits: Int32(size.bits),
                        by_inputs: size.order == .byOutputs ? 0 : 1, period: size.period,
                        matrix_outputs: outputs, first_output: first, bias: bias.baseAddress! + first,
                        y: y.pointer, y_stride: count + 1, rows: rows, inputs: inputs, outputs: count,
                        activation: TANDEM_RELU, scratch: scratch)
                    kernels.gemm_quantized(&product)
                }
                let wanted = Matrix(
                    rows: count, columns: inputs,
                    elements: Array(quantized.weights.elements[(first * inputs)...]))
                let reference = productReference(
                    x: x, weights: wanted, bias: Array(bias[first...]), activation: TANDEM_RELU)
                let error = firstError(
                    in: y, stride: count + 1, columns: count, reference, .activatedProduct)
                #expect(error == nil, "\(rows) rows, from output \(first)")
                #expect(y.gapsAreIntact(rows: rows, columns: count, stride: count + 1))
            }
        }
    }

    @Test(arguments: cases) func `any range of rows is one run of bytes`(size: Case) {
        let layout = size.layout
        var expected = 0
        let (outer, inner) =
            size.order == .byOutputs
            ? (layout.blockCount, layout.groupCount) : (layout.groupCount, layout.blockCount)
        for first in 0..<outer {
            for second in 0..<inner {
                let (block, group) = size.order == .byOutputs ? (first, second) : (second, first)
                #expect(layout.offset(block: block, group: group) == expected)
                expected += layout.quantization.tileByteCount(inputs: layout.inputs(ofGroup: group).count)
            }
        }
        #expect(expected == layout.byteCount)
    }
}

extension UnsafeMutablePointer<Float> {
    fileprivate static func allocateAligned(count: Int) -> Self {
        UnsafeMutableRawPointer.allocate(byteCount: 4 * count, alignment: 64)
            .bindMemory(to: Float.self, capacity: count)
    }
}
