import TensorCore

/// A head's key or value of one position in 4 bits (docs/quantization.md), packed and read element by element: what faster
/// code is held against. Its bytes are theirs, so it computes in fp32 as they do.
struct QuantizedPosition {
    private(set) var bytes: [UInt8]
    private let dimension: Int

    init(_ elements: [Float16]) {
        dimension = elements.count
        bytes = [UInt8](repeating: 0, count: Quantization.cachePositionByteCount(headDimension: dimension))
        for (index, group) in groups.enumerated() {
            let values = elements[group].map(Float.init)
            var minimum = Float16(values.min()!)
            if Float(minimum) > values.min()! { minimum = minimum.nextDown }
            let wanted = (values.max()! - Float(minimum)) / 15
            var scale = Float16(wanted)
            if Float(scale) < wanted { scale = scale.nextUp }
            for (number, value) in values.enumerated() where scale > 0 {
                let code = ((value - Float(minimum)) / Float(scale)).rounded(.toNearestOrEven)
                let place = place(number, in: group)
                bytes[place.byte] |= UInt8(min(code, 15)) << place.shift
            }
            put(scale, at: scalePlace(index))
            put(minimum, at: scalePlace(index) + 2)
        }
    }

    init(bytes: [UInt8], dimension: Int) {
        self.bytes = bytes
        self.dimension = dimension
    }

    /// minimum + scale · code, rounded to fp16 once.
    var elements: [Float16] {
        groups.enumerated().flatMap { index, group in
            let scale = half(at: scalePlace(index))
            let minimum = half(at: scalePlace(index) + 2)
            return group.map { number in
                let place = place(number - group.lowerBound, in: group)
                let code = Double(bytes[place.byte] >> place.shift & 15)
                return Float16(Double(minimum) + Double(scale) * code)
            }
        }
    }

    private var groups: [Range<Int>] {
        stride(from: 0, to: dimension, by: Quantization.groupSize).map {
            $0..<min($0 + Quantization.groupSize, dimension)
        }
    }

    /// Where the code of a group's element is.
    private func place(_ number: Int, in group: Range<Int>) -> (byte: Int, shift: Int) {
        let half = group.count / 2
        return (group.lowerBound / 2 + number % half, number / half * 4)
    }

    private func scalePlace(_ group: Int) -> Int { dimension / 2 + 4 * group }

    private mutating func put(_ value: Float16, at byte: Int) {
        bytes[byte] = UInt8(truncatingIfNeeded: value.bitPattern)
        bytes[byte + 1] = UInt8(value.bitPattern >> 8)
    }

    private func half(at byte: Int) -> Float16 {
        Float16(bitPattern: UInt16(bytes[byte]) | UInt16(bytes[byte + 1]) << 8)
    }
}
