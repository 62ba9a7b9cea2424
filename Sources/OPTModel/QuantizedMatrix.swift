import TensorCore

/// Weights of one group as `docs/quantization.md` has them: the least one, a step, and how many steps each is above it.
struct QuantizedGroup {
    let minimum, scale: Float16
    let codes: [Int]

    /// Quantizes finite weights. None is more than half a step off, as the scale is rounded up.
    init(_ weights: [Float16], mostCode: Int) {
        let least = Double(weights.min()!)
        let range = Double(weights.max()!) - least
        var scale = Float16(range / Double(mostCode))
        if Double(scale) * Double(mostCode) < range { scale = scale.nextUp }
        let step = Double(scale)
        minimum = Float16(least)
        self.scale = scale
        codes = weights.map { weight in
            step == 0 ? 0 : min(mostCode, Int(((Double(weight) - least) / step).rounded()))
        }
    }
}

/// A matrix in 4 or 8 bits, packed and read element by element: what faster code is held against.
struct QuantizedMatrix: Sendable {
    let layout: QuantizedLayout
    private(set) var bytes: [UInt8]

    /// Quantizes weights [outputs, inputs].
    init(_ layout: QuantizedLayout, weights: [Float16]) {
        precondition(
            weights.count == layout.outputs * layout.inputs,
            "QuantizedMatrix: \(weights.count) weights, \(layout.outputs) x \(layout.inputs)")
        self.layout = layout
        bytes = [UInt8](repeating: 0, count: layout.byteCount)
        for index in 0..<layout.groupCount {
            let inputs = layout.inputs(ofGroup: index)
            for output in 0..<layout.outputs {
                let group = QuantizedGroup(
                    Array(weights[(output * layout.inputs + inputs.lowerBound)...].prefix(inputs.count)),
                    mostCode: layout.quantization.mostCode)
                put(group, output: output, index: index)
            }
        }
    }

    private mutating func put(_ group: QuantizedGroup, output: Int, index: Int) {
        let tile = layout.offset(block: output / Quantization.tileOutputs, group: index)
        let within = output % Quantization.tileOutputs
        for (input, code) in group.codes.enumerated() {
            let place = layout.quantization.place(output: within, input: input)
            bytes[tile + place.byte] |= UInt8(code << place.shift)
        }
        let scale = scalePlace(output: within, inputCount: group.codes.count)
        for (byte, value) in [(scale, group.scale), (scale + 32, group.minimum)] {
            bytes[tile + byte] = UInt8(truncatingIfNeeded: value.bitPattern)
            bytes[tile + byte + 1] = UInt8(value.bitPattern >> 8)
        }
    }

    /// The byte of a tile at which an output's scale begins; its minimum is 32 bytes behind.
    private func scalePlace(output: Int, inputCount: Int) -> Int {
        layout.quantization.tileByteCount(inputs: inputCount) - 64 + 2
            * Quantization.position(ofOutput: output)
    }

    /// minimum + scale · code, unrounded.
    func weight(output: Int, input: Int) -> Double {
        let (period, groupSize) = (layout.period, Quantization.groupSize)
        let index = input / period * layout.groupsPerPeriod + input % period / groupSize
        let inputs = layout.inputs(ofGroup: index)
        let tile = layout.offset(block: output / Quantization.tileOutputs, group: index)
        let within = output % Quantization.tileOutputs
        let place = layout.quantization.place(output: within, input: input - inputs.lowerBound)
        let code = Int(bytes[tile + place.byte]) >> place.shift & layout.quantization.mostCode
        let scale = tile + scalePlace(output: within, inputCount: inputs.count)
        return Double(half(at: scale + 32)) + Double(half(at: scale)) * Double(code)
    }

    private func half(at byte: Int) -> Float16 {
        Float16(bitPattern: UInt16(bytes[byte]) | UInt16(bytes[byte + 1]) << 8)
    }
}
