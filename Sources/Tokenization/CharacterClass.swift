/// What GPT-2's word pattern distinguishes about a character.
enum CharacterClass: UInt8 {
    /// `\p{L}`
    case letter
    /// `\p{N}`
    case number
    /// `\s`
    case space
    /// `[^\s\p{L}\p{N}]`
    case other
    /// A byte that is part of no valid UTF-8 sequence. The pattern is over text, and has none.
    case invalid

    /// The class of the character at `index` and the bytes that it takes.
    @inline(__always)
    static func at(_ index: Int, in bytes: Span<UInt8>, limit: Int) -> (kind: CharacterClass, byteCount: Int)
    {
        let byte = bytes[index]
        if byte < 0x80 { return (ofASCII(byte), 1) }
        guard let (value, byteCount) = UTF8Sequence.scalar(in: bytes, at: index, limit: limit) else {
            return (.invalid, 1)
        }
        return (ofScalar(value), byteCount)
    }

    @inline(__always)
    private static func ofASCII(_ byte: UInt8) -> CharacterClass {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): .letter
        case UInt8(ascii: " "), 0x09...0x0D: .space
        case UInt8(ascii: "0")...UInt8(ascii: "9"): .number
        default: .other
        }
    }

    private static func ofScalar(_ value: UInt32) -> CharacterClass {
        switch value {
        // Unified ideographs and Hangul syllables: a table look-up each would dominate on such text.
        case 0x4E00...0x9FFF, 0xAC00...0xD7A3: return .letter
        default: break
        }
        guard let scalar = Unicode.Scalar(value) else { return .other }
        let properties = scalar.properties
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter:
            return isInReferenceUnicode(properties) ? .letter : .other
        case .decimalNumber, .letterNumber, .otherNumber:
            return isInReferenceUnicode(properties) ? .number : .other
        default:
            return properties.isWhitespace ? .space : .other
        }
    }

    /// Whether the character is in Unicode 16, the version that Hugging Face's tokenizers 0.23 classifies by.
    ///
    /// Swift's own tables are newer and grow with the toolchain; token ids must not.
    private static func isInReferenceUnicode(_ properties: Unicode.Scalar.Properties) -> Bool {
        guard let age = properties.age else { return false }
        return age.major <= 16
    }
}
