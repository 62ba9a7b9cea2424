/// A text on its way to tokens: its bytes, and how they are cut into added tokens and what lies between.
struct SegmentedText {
    enum Segment: Equatable {
        case text(Range<Int>)
        case token(Int32)
    }

    private(set) var bytes: [UInt8]
    private(set) var segments: [Segment]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        segments = [.text(0..<bytes.count)]
    }

    /// Cuts the text segments at the added tokens that `matcher` finds in them.
    mutating func split(at matcher: AddedTokenMatcher, stripping: Bool) {
        if matcher.isEmpty { return }
        var finer: [Segment] = []
        for segment in segments {
            switch segment {
            case .token: finer.append(segment)
            case .text(let range):
                finer += matcher.segments(of: range, in: bytes.span, stripping: stripping)
            }
        }
        segments = finer
    }

    /// Puts in place of each text segment what `rewrite` makes of it. An empty one is left alone.
    mutating func rewriteText(_ rewrite: (ArraySlice<UInt8>) -> [UInt8]) {
        var rewritten: [UInt8] = []
        rewritten.reserveCapacity(bytes.count)
        for index in segments.indices {
            guard case .text(let range) = segments[index], !range.isEmpty else { continue }
            let start = rewritten.count
            rewritten += rewrite(bytes[range])
            segments[index] = .text(start..<rewritten.count)
        }
        bytes = rewritten
    }
}
