import CPUKernels
import Testing

struct ChecksumTests {
    /// Bit by bit, as the polynomial says it.
    private func reference(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        var remainder = ~UInt32(0)
        for byte in bytes {
            remainder ^= UInt32(byte)
            for _ in 0..<8 { remainder = remainder >> 1 ^ (remainder & 1 == 0 ? 0 : 0x82F6_3B78) }
        }
        return ~remainder
    }

    @Test func `the digest of the nine digits is the published one`() {
        let digits = Array("123456789".utf8)
        #expect(tandem_crc32c(digits, digits.count) == 0xE306_9283)
        #expect(tandem_crc32c_portable(digits, digits.count) == 0xE306_9283)
        #expect(tandem_crc32c(digits, 0) == 0)
    }

    @Test func `instruction and tables agree with the polynomial at every length and alignment`() {
        let bytes = (0..<700).map { UInt8(truncatingIfNeeded: $0 &* $0 &* 31 &+ 7) }
        for start in 0..<9 {
            for count in Array(0..<40) + [63, 64, 65, 600] {
                let expected = reference(bytes[start..<start + count])
                bytes.withUnsafeBytes {
                    #expect(tandem_crc32c($0.baseAddress! + start, count) == expected)
                    #expect(tandem_crc32c_portable($0.baseAddress! + start, count) == expected)
                }
            }
        }
    }
}
