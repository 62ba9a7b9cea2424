/// Cuts text into the pre-tokens that no merge may cross.
///
/// The words are those of GPT-2's pattern, scanned by hand:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
struct PreTokenizer: Sendable {
    /// Galactica's cuts around digits, punctuation and newlines, made before the words are.
    var isolation: Isolation?
    /// Whether the word pattern applies; without it a piece is one pre-token.
    var splitsWords = true
    /// Whether a space is put before each stretch of text that does not start with one.
    var addsPrefixSpace = false

    /// The end of the pre-token that starts at `start`, in a stretch of text that ends at `limit`.
    @inline(__always)
    func preTokenEnd(in bytes: Span<UInt8>, from start: Int, limit: Int) -> Int {
        splitsWords ? Self.wordEnd(in: bytes, from: start, limit: limit) : limit
    }

    static func wordEnd(in bytes: Span<UInt8>, from start: Int, limit: Int) -> Int {
        let first = bytes[start]
        if first == UInt8(ascii: "'"),
            let end = contractionEnd(in: bytes, from: start, limit: limit)
        {
            return end
        }
        let (kind, byteCount) = CharacterClass.at(start, in: bytes, limit: limit)
        guard kind == .space else {
            return runEnd(of: kind, in: bytes, from: start + byteCount, limit: limit)
        }
        if first == UInt8(ascii: " "), start + 1 < limit {
            let (nextKind, nextByteCount) = CharacterClass.at(start + 1, in: bytes, limit: limit)
            if nextKind != .space, nextKind != .invalid {
                return runEnd(of: nextKind, in: bytes, from: start + 1 + nextByteCount, limit: limit)
            }
        }
        return spacesEnd(in: bytes, from: start, limit: limit)
    }

    @inline(__always)
    private static func runEnd(
        of kind: CharacterClass, in bytes: Span<UInt8>, from start: Int, limit: Int
    ) -> Int {
        var index = start
        while index < limit {
            let (nextKind, byteCount) = CharacterClass.at(index, in: bytes, limit: limit)
            if nextKind != kind { break }
            index += byteCount
        }
        return index
    }

    /// `\s+(?!\S)|\s+`: all of the run at the end of the text, else all but its last character.
    private static func spacesEnd(in bytes: Span<UInt8>, from start: Int, limit: Int) -> Int {
        var index = start
        var lastStart = start
        while index < limit {
            let (kind, byteCount) = CharacterClass.at(index, in: bytes, limit: limit)
            if kind != .space { return lastStart > start ? lastStart : index }
            lastStart = index
            index += byteCount
        }
        return limit
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d`, in lower case only, as GPT-2 has it.
    private static func contractionEnd(in bytes: Span<UInt8>, from start: Int, limit: Int) -> Int? {
        guard start + 1 < limit else { return nil }
        switch bytes[start + 1] {
        case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return start + 2
        case UInt8(ascii: "r"), UInt8(ascii: "v"):
            guard start + 2 < limit, bytes[start + 2] == UInt8(ascii: "e") else { return nil }
            return start + 3
        case UInt8(ascii: "l"):
            guard start + 2 < limit, bytes[start + 2] == UInt8(ascii: "l") else { return nil }
            return start + 3
        default: return nil
        }
    }
}
