/// How weights are kept in fewer bits; `docs/quantization.md` has the layout.
public struct Quantization: Sendable, Hashable {
    /// 4 or 8.
    public let bits: Int

    /// Weights of one output that share a scale and a minimum, at most.
    public static let groupSize = 64
    /// Outputs of a tile. Outputs and inputs of a quantized matrix come in multiples of it.
    public static let tileOutputs = 16

    /// - Returns: nil for other numbers of bits than 4 and 8.
    public init?(bits: Int) {
        guard bits == 4 || bits == 8 else { return nil }
        self.bits = bits
    }

    public static let fourBits = Quantization(bits: 4)!
    public static let eightBits = Quantization(bits: 8)!

    /// The largest code.
    public var mostCode: Int { (1 << bits) - 1 }

    /// The bytes of a tile of `inputs` inputs: codes, then the outputs' scales and minimums in fp16.
    public func tileByteCount(inputs: Int) -> Int {
        Self.tileOutputs * (inputs * bits / 8 + 2 * 2)
    }

    /// The bytes of a matrix whose inputs are grouped anew every `period` inputs.
    public func byteCount(outputs: Int, inputs: Int, period: Int = groupSize) -> Int {
        QuantizedLayout(self, .byOutputs, outputs: outputs, inputs: inputs, period: period).byteCount
    }
}

/// Where the tiles of a quantized matrix lie, in bytes from its beginning.
public struct QuantizedLayout: Sendable, Hashable {
    public enum Order: Sendable, Hashable {
        /// All groups of 16 outputs, then those of the next 16: a range of outputs is one run of bytes.
        case byOutputs
        /// A group of all outputs, then the next: a range of inputs is one run of bytes.
        case byInputs
    }

    public let quantization: Quantization
    public let order: Order
    public let outputs, inputs: Int
    /// Inputs after which a group ends in any case: a head's, or those of a group.
    public let period: Int

    public init(
        _ quantization: Quantization, _ order: Order, outputs: Int, inputs: Int,
        period: Int = Quantization.groupSize
    ) {
        precondition(
            (outputs | inputs | period) % Quantization.tileOutputs == 0 && period > 0
                && (period == Quantization.groupSize || inputs % period == 0),
            "QuantizedLayout: \(outputs) outputs, \(inputs) inputs in periods of \(period)")
        self.quantization = quantization
        self.order = order
        self.outputs = outputs
        self.inputs = inputs
        self.period = period
    }

    /// Groups of a period.
    public var groupsPerPeriod: Int { (period + Quantization.groupSize - 1) / Quantization.groupSize }

    public var groupCount: Int {
        inputs / period * groupsPerPeriod
            + (inputs % period + Quantization.groupSize - 1) / Quantization.groupSize
    }

    public var blockCount: Int { outputs / Quantization.tileOutputs }

    /// The inputs of a group.
    public func inputs(ofGroup group: Int) -> Range<Int> {
        let start = group / groupsPerPeriod * period
        let first = start + group % groupsPerPeriod * Quantization.groupSize
        return first..<min(first + Quantization.groupSize, start + period, inputs)
    }

    /// Bytes of 16 outputs' tiles up to input `end`, where a group ends.
    private func blockByteCount(upTo end: Int) -> Int {
        let wholePeriods = end / period
        func bytes(_ inputs: Int) -> Int {
            let groups = (inputs + Quantization.groupSize - 1) / Quantization.groupSize
            return Quantization.tileOutputs * (inputs * quantization.bits / 8 + 4 * groups)
        }
        return wholePeriods * bytes(period) + bytes(end % period)
    }

    public var byteCount: Int { blockCount * blockByteCount(upTo: inputs) }

    /// - Parameter block: of 16 outputs.
    public func offset(block: Int, group: Int) -> Int {
        let inputs = inputs(ofGroup: group)
        switch order {
        case .byOutputs:
            return block * blockByteCount(upTo: self.inputs) + blockByteCount(upTo: inputs.lowerBound)
        case .byInputs:
            return blockCount * blockByteCount(upTo: inputs.lowerBound)
                + block * quantization.tileByteCount(inputs: inputs.count)
        }
    }

    /// Units are what a part of the matrix is made of: 16 outputs, or a group of inputs. Each is one run of bytes.
    public var unitCount: Int { order == .byOutputs ? blockCount : groupCount }

    /// Where a unit begins, and for `unitCount` where the last one ends.
    public func offset(ofUnit unit: Int) -> Int {
        if unit == unitCount { return byteCount }
        return order == .byOutputs ? offset(block: unit, group: 0) : offset(block: 0, group: unit)
    }

    /// The unit that begins with this output, or input; `unitCount` behind the last one.
    public func unit(from item: Int) -> Int {
        if item == (order == .byOutputs ? outputs : inputs) { return unitCount }
        if order == .byOutputs {
            precondition(item % Quantization.tileOutputs == 0, "QuantizedLayout: no unit at output \(item)")
            return item / Quantization.tileOutputs
        }
        let inPeriod = item % period
        precondition(inPeriod % Quantization.groupSize == 0, "QuantizedLayout: no group at input \(item)")
        return item / period * groupsPerPeriod + inPeriod / Quantization.groupSize
    }

    /// Where output `output`, a multiple of 16, begins; kept by outputs.
    public func offset(ofOutput output: Int) -> Int {
        precondition(order == .byOutputs && output % Quantization.tileOutputs == 0)
        return output / Quantization.tileOutputs * blockByteCount(upTo: inputs)
    }

    /// Where input `input`, at which a group begins, begins; kept by inputs.
    public func offset(ofInput input: Int) -> Int {
        precondition(order == .byInputs)
        return blockCount * blockByteCount(upTo: input)
    }
}

extension Quantization {
    /// The inputs after which groups of the output projection end: none is of two heads.
    public static func period(headDimension: Int) -> Int {
        headDimension.isMultiple(of: groupSize) ? groupSize : headDimension
    }

    /// The bytes of a head's key or value of one position in 4 bits: codes, then scale and minimum of each group.
    public static func cachePositionByteCount(headDimension: Int) -> Int {
        headDimension / 2 + 2 * 2 * ((headDimension + groupSize - 1) / groupSize)
    }

    /// The position at which a tile has an output.
    public static func position(ofOutput output: Int) -> Int { output % 8 * 2 + output / 8 }

    /// The byte and, with 4 bits, the shift at which a tile has a code.
    public func place(output: Int, input: Int) -> (byte: Int, shift: Int) {
        let order = [0, 2, 1, 3]  // its own inverse
        let at = 4 * Self.position(ofOutput: output) + order[input % 4]
        return bits == 4
            ? (input / 8 * 64 + at, input % 8 / 4 * 4) : (input / 4 * 64 + at, 0)
    }
}
