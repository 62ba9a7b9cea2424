extension Tokenizer {
    /// The ids of a text, `beginOfSequence` first unless declined.
    ///
    /// Added tokens that are spelled out in the text, such as `</s>`, become their ids, as in Hugging Face's
    /// tokenizers.
    public func encode(_ text: String, addingBeginOfSequence: Bool = true) -> [Int32] {
        var stretches = SegmentedText(Array(text.utf8))
        stretches.split(at: addedTokens, stripping: true)
        if let normalizer { stretches.rewriteText(normalizer.normalize) }
        stretches.split(at: normalizedAddedTokens, stripping: true)
        if preTokenizer.addsPrefixSpace {
            stretches.rewriteText { $0.first == UInt8(ascii: " ") ? Array($0) : [UInt8(ascii: " ")] + $0 }
        }
        return tokens(
            of: stretches, cutBy: preTokenizer, after: addingBeginOfSequence ? [beginOfSequence] : [])
    }

    /// The ids of bytes that need not be UTF-8, such that the ids' bytes joined are these bytes again.
    ///
    /// To that end nothing is put in front, normalized, added or removed, and an added token takes no white
    /// space along. Bytes that are no valid UTF-8 form pre-tokens of their own.
    public func encode(bytes: some Collection<UInt8>) -> [Int32] {
        var stretches = SegmentedText(Array(bytes))
        stretches.split(at: addedTokens, stripping: false)
        stretches.split(at: normalizedAddedTokens, stripping: false)
        var preTokenizer = preTokenizer
        preTokenizer.isolation?.removedMarker = []
        return tokens(of: stretches, cutBy: preTokenizer, after: [])
    }

    private func tokens(
        of text: SegmentedText, cutBy preTokenizer: PreTokenizer, after prefix: [Int32]
    ) -> [Int32] {
        let span = text.bytes.span
        var output = prefix
        output.reserveCapacity(prefix.count + text.bytes.count / 4)
        var cache = PreTokenCache()
        var merger = BytePairMerger()
        for segment in text.segments {
            switch segment {
            case .token(let id): output.append(id)
            case .text(let range):
                for piece in preTokenizer.pieces(of: range, in: span) {
                    var start = piece.lowerBound
                    while start < piece.upperBound {
                        let end = preTokenizer.preTokenEnd(in: span, from: start, limit: piece.upperBound)
                        cache.appendTokens(
                            of: start..<end, in: span, merger: &merger, vocabulary: vocabulary,
                            table: mergeTable, to: &output)
                        start = end
                    }
                }
            }
        }
        return output
    }
}
