/// GPT-2's alphabet: one printable character for each of the 256 bytes, so that a vocabulary file is text.
///
/// Bytes that print in Latin-1 stand for themselves; the other 68 take U+0100 and up, in order of the byte.
/// Source: `bytes_to_unicode` of GPT-2's encoder.py.
enum ByteLevelAlphabet {
    static let scalars: [Unicode.Scalar] = {
        var nextFree: UInt32 = 0x100
        return (0...255).map { byte in
            if printsAsItself(byte) { return Unicode.Scalar(UInt8(byte)) }
            defer { nextFree += 1 }
            // U+0100...U+0143 are all scalars.
            return Unicode.Scalar(nextFree) ?? "\u{FFFD}"
        }
    }()

    private static let bytes: [UInt8?] = {
        var table = [UInt8?](repeating: nil, count: 0x144)
        for (byte, scalar) in scalars.enumerated() { table[Int(scalar.value)] = UInt8(byte) }
        return table
    }()

    /// The bytes that a token's text stands for, or nil where a character is outside the alphabet.
    static func bytes(of token: String) -> [UInt8]? {
        let table = bytes
        var result: [UInt8] = []
        result.reserveCapacity(token.utf8.count)
        for scalar in token.unicodeScalars {
            guard scalar.value < table.count, let byte = table[Int(scalar.value)] else { return nil }
            result.append(byte)
        }
        return result
    }

    private static func printsAsItself(_ byte: Int) -> Bool {
        (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || (0xAE...0xFF).contains(byte)
    }
}
