/// Random values that a seed determines, quickly made also in a debug build: a pattern of prime length, repeated.
struct RandomValues {
    private var state: UInt64
    private let pattern: [Float16]
    private static let patternCount = 32749

    init(seed: UInt64) {
        var generator = RandomValues(state: seed, pattern: [])
        var values: [Float16] = []
        values.reserveCapacity(Self.patternCount)
        for _ in 0..<Self.patternCount { values.append(Float16(2 * generator.uniform() - 1)) }
        self.init(state: generator.state, pattern: values)
    }

    private init(state: UInt64, pattern: [Float16]) {
        self.state = state
        self.pattern = pattern
    }

    /// SplitMix64.
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// In [0, 1).
    mutating func uniform() -> Float { Float(next() >> 40) * 0x1p-24 }

    mutating func index(below count: Int) -> Int { Int(next() % UInt64(count)) }

    /// Halves in -1 ..< 1.
    mutating func halves(_ count: Int) -> [Float16] {
        var result: [Float16] = []
        result.reserveCapacity(count)
        var start = index(below: Self.patternCount)
        while result.count < count {
            result.append(contentsOf: pattern[start..<min(Self.patternCount, start + count - result.count)])
            start = 0
        }
        return result
    }

    /// Floats in -scale ..< scale.
    mutating func floats(_ count: Int, scale: Float = 1) -> [Float] {
        halves(count).map { Float($0) * scale }
    }
}
