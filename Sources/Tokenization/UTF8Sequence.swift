/// Reading of UTF-8 that may be invalid or cut short.
enum UTF8Sequence {
    /// The scalar that starts at `index`, or nil where the bytes before `limit` hold no whole valid sequence.
    @inline(__always)
    static func scalar(
        in bytes: Span<UInt8>, at index: Int, limit: Int
    ) -> (value: UInt32, byteCount: Int)? {
        let lead = bytes[index]
        if lead < 0x80 { return (UInt32(lead), 1) }
        let byteCount = expectedByteCount(lead: lead)
        guard byteCount > 1, index + byteCount <= limit,
            acceptsSecond(bytes[index + 1], after: lead)
        else { return nil }
        var value = UInt32(lead) & (0x7F >> UInt32(byteCount))
        for offset in 1..<byteCount {
            let byte = bytes[index + offset]
            guard byte & 0xC0 == 0x80 else { return nil }
            value = value << 6 | UInt32(byte & 0x3F)
        }
        return (value, byteCount)
    }

    /// The bytes at the end that start a valid sequence and lack its rest: 0 to 3.
    static func incompleteSuffixByteCount(of bytes: [UInt8]) -> Int {
        for count in 1...3 where count <= bytes.count {
            let lead = bytes[bytes.count - count]
            if lead & 0xC0 == 0x80 { continue }
            guard count < expectedByteCount(lead: lead) else { return 0 }
            if count >= 2, !acceptsSecond(bytes[bytes.count - count + 1], after: lead) { return 0 }
            return count
        }
        return 0
    }

    /// The length of the sequence that a lead byte announces; 0 for a byte that leads none.
    @inline(__always)
    private static func expectedByteCount(lead: UInt8) -> Int {
        switch lead {
        case 0x00...0x7F: 1
        case 0xC2...0xDF: 2
        case 0xE0...0xEF: 3
        case 0xF0...0xF4: 4
        default: 0
        }
    }

    /// Whether the second byte keeps it valid: no overlong form, no surrogate, nothing past U+10FFFF.
    @inline(__always)
    private static func acceptsSecond(_ second: UInt8, after lead: UInt8) -> Bool {
        switch lead {
        case 0xE0: (0xA0...0xBF).contains(second)
        case 0xED: (0x80...0x9F).contains(second)
        case 0xF0: (0x90...0xBF).contains(second)
        case 0xF4: (0x80...0x8F).contains(second)
        default: second & 0xC0 == 0x80
        }
    }
}
