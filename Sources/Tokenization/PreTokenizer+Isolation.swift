extension PreTokenizer {
    /// The cuts that Galactica makes before the word pattern: each stage of its `pre_tokenizer` by itself.
    struct Isolation: Sendable, Equatable {
        /// Text that separates and vanishes, `SPL1T-TH1S-Pl3A5E` in Galactica.
        var removedMarker: [UInt8] = []
        /// Each character of `\p{N}` stands alone.
        var isolatesDigits = false
        /// Each bracket stands alone, and each run of one punctuation character.
        var isolatesPunctuation = false
        /// Each `\n` stands alone.
        var isolatesNewlines = false

        /// Galactica's expression for `isolatesPunctuation`, by which the stage is known in `tokenizer.json`.
        static let punctuationExpression =
            ##"[\(\)\[\]\{\}]|([!"\#\$%\&'\*\+,\-\./:;<=>\?\\\^_`\|\~])\1*"##

        private static let brackets: [UInt8] = Array("()[]{}".utf8)
        private static let punctuation: [UInt8] = Array(##"!"#$%&'*+,-./:;<=>?\^_`|~"##.utf8)
    }

    /// The stretches of `range` in which words are looked for.
    func pieces(of range: Range<Int>, in bytes: Span<UInt8>) -> [Range<Int>] {
        guard let isolation else { return range.isEmpty ? [] : [range] }
        var pieces: [Range<Int>] = []
        var pieceStart = range.lowerBound
        var index = range.lowerBound
        func finishPiece(_ end: Int) {
            if pieceStart < end { pieces.append(pieceStart..<end) }
        }
        while index < range.upperBound {
            if let end = isolation.markerEnd(in: bytes, from: index, limit: range.upperBound) {
                finishPiece(index)
                index = end
                pieceStart = end
                continue
            }
            let (kind, byteCount) = CharacterClass.at(index, in: bytes, limit: range.upperBound)
            if let end = isolation.unitEnd(
                of: kind, byteCount, in: bytes, from: index, limit: range.upperBound)
            {
                finishPiece(index)
                pieces.append(index..<end)
                index = end
                pieceStart = end
            } else {
                index += byteCount
            }
        }
        finishPiece(range.upperBound)
        return pieces
    }
}

extension PreTokenizer.Isolation {
    fileprivate func markerEnd(in bytes: Span<UInt8>, from start: Int, limit: Int) -> Int? {
        guard let first = removedMarker.first, bytes[start] == first, start + removedMarker.count <= limit
        else { return nil }
        for (offset, byte) in removedMarker.enumerated() where bytes[start + offset] != byte { return nil }
        return start + removedMarker.count
    }

    /// The end of the unit that stands alone at `start`, or nil where the character there is part of a piece.
    fileprivate func unitEnd(
        of kind: CharacterClass, _ byteCount: Int, in bytes: Span<UInt8>, from start: Int, limit: Int
    ) -> Int? {
        let byte = bytes[start]
        if isolatesDigits, kind == .number { return start + byteCount }
        if isolatesNewlines, byte == UInt8(ascii: "\n") { return start + 1 }
        guard isolatesPunctuation, kind == .other else { return nil }
        if Self.brackets.contains(byte) { return start + 1 }
        guard Self.punctuation.contains(byte) else { return nil }
        var end = start + 1
        while end < limit, bytes[end] == byte { end += 1 }
        return end
    }
}
