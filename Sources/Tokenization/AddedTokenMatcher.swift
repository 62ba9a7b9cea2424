/// Finds added tokens in a text: the leftmost first, and of those that start together the longest.
///
/// Follows `AddedVocabulary` of Hugging Face's tokenizers.
struct AddedTokenMatcher: Sendable {
    private struct Pattern {
        var bytes: [UInt8]
        var token: AddedToken
    }

    private var patterns: [Pattern]
    /// For each first byte, the patterns that start with it, longest first.
    private var patternsByFirstByte: [[Int]]

    init(_ tokens: [AddedToken]) {
        patterns = tokens.map { Pattern(bytes: Array($0.content.utf8), token: $0) }
            .filter { !$0.bytes.isEmpty }
        patternsByFirstByte = Array(repeating: [], count: 256)
        for index in patterns.indices.sorted(by: { patterns[$0].bytes.count > patterns[$1].bytes.count }) {
            patternsByFirstByte[Int(patterns[index].bytes[0])].append(index)
        }
    }

    var isEmpty: Bool { patterns.isEmpty }

    /// Cuts `range` into added tokens and the text between them.
    ///
    /// Where `stripping` is false, a token takes no white space along, so that no byte of the text is lost.
    func segments(of range: Range<Int>, in bytes: Span<UInt8>, stripping: Bool) -> [SegmentedText.Segment] {
        var segments: [SegmentedText.Segment] = []
        var textStart = range.lowerBound
        var index = range.lowerBound
        while index < range.upperBound {
            guard let pattern = longestMatch(in: bytes, at: index, limit: range.upperBound) else {
                index += 1
                continue
            }
            var start = index
            var end = index + pattern.bytes.count
            index = end
            if pattern.token.isWholeWord, Self.isInsideWord(start..<end, of: range, in: bytes) { continue }
            if stripping, pattern.token.stripsLeft {
                while start > textStart,
                    let length = Self.spaceLength(in: bytes, before: start, from: textStart)
                {
                    start -= length
                }
            }
            if stripping, pattern.token.stripsRight {
                while end < range.upperBound {
                    let (kind, byteCount) = CharacterClass.at(end, in: bytes, limit: range.upperBound)
                    if kind != .space { break }
                    end += byteCount
                }
            }
            if textStart < start { segments.append(.text(textStart..<start)) }
            segments.append(.token(pattern.token.id))
            textStart = max(end, textStart)
            index = max(index, end)
        }
        if textStart < range.upperBound { segments.append(.text(textStart..<range.upperBound)) }
        return segments
    }

    private func longestMatch(in bytes: Span<UInt8>, at index: Int, limit: Int) -> Pattern? {
        for candidate in patternsByFirstByte[Int(bytes[index])] {
            let pattern = patterns[candidate].bytes
            guard index + pattern.count <= limit else { continue }
            if (1..<pattern.count).allSatisfy({ bytes[index + $0] == pattern[$0] }) {
                return patterns[candidate]
            }
        }
        return nil
    }

    private static func isInsideWord(_ match: Range<Int>, of range: Range<Int>, in bytes: Span<UInt8>) -> Bool
    {
        if match.upperBound < range.upperBound,
            let next = UTF8Sequence.scalar(in: bytes, at: match.upperBound, limit: range.upperBound),
            isWordCharacter(next.value)
        {
            return true
        }
        guard match.lowerBound > range.lowerBound else { return false }
        let lead = characterStart(in: bytes, before: match.lowerBound, from: range.lowerBound)
        guard let previous = UTF8Sequence.scalar(in: bytes, at: lead, limit: match.lowerBound) else {
            return false
        }
        return isWordCharacter(previous.value)
    }

    /// `\w` of Unicode's regular expressions, annex C.
    private static func isWordCharacter(_ value: UInt32) -> Bool {
        guard let properties = Unicode.Scalar(value)?.properties else { return false }
        switch properties.generalCategory {
        case .decimalNumber, .connectorPunctuation, .nonspacingMark, .spacingMark, .enclosingMark: return true
        default: return properties.isAlphabetic || properties.isJoinControl
        }
    }

    private static func spaceLength(in bytes: Span<UInt8>, before end: Int, from start: Int) -> Int? {
        let lead = characterStart(in: bytes, before: end, from: start)
        let (kind, byteCount) = CharacterClass.at(lead, in: bytes, limit: end)
        return kind == .space && lead + byteCount == end ? byteCount : nil
    }

    private static func characterStart(in bytes: Span<UInt8>, before end: Int, from start: Int) -> Int {
        var index = end - 1
        while index > start, bytes[index] & 0xC0 == 0x80 { index -= 1 }
        return index
    }
}
