/// The random numbers of one dummy tensor, 64 bits for each counter.
///
/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a number depends on (seed, tensor's name, counter) alone, so
/// that any thread can begin anywhere.
struct DummyBits {
    private let key: UInt64

    init(name: String, seed: UInt64) {
        // FNV-1a.
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        key = Self.mix(hash ^ Self.mix(seed &+ Self.increment))
    }

    @inline(__always)
    subscript(counter: Int) -> UInt64 {
        Self.mix(key &+ UInt64(truncatingIfNeeded: counter) &* Self.increment)
    }

    private static let increment: UInt64 = 0x9E37_79B9_7F4A_7C15

    @inline(__always)
    private static func mix(_ value: UInt64) -> UInt64 {
        var bits = value
        bits = (bits ^ bits >> 30) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
        return bits ^ bits >> 31
    }
}
