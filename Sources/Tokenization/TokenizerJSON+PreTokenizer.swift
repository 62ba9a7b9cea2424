import SystemPackage

extension TokenizerJSON {
    /// The pre-tokenizer that the file describes: `ByteLevel`, with Galactica's cuts before it or without.
    func makePreTokenizer(file: FilePath) throws(TokenizerError) -> PreTokenizer {
        var stages = preTokenizer?.flattened ?? []
        guard let byteLevel = stages.popLast(), byteLevel.type == "ByteLevel" else {
            throw Self.refusal(of: "a pre_tokenizer that does not end with ByteLevel", file)
        }
        var result = PreTokenizer(
            splitsWords: byteLevel.usesRegex ?? true, addsPrefixSpace: byteLevel.addsPrefixSpace ?? true)
        if stages.isEmpty { return result }
        guard !result.addsPrefixSpace else {
            throw Self.refusal(of: "add_prefix_space after other stages", file)
        }
        var isolation = PreTokenizer.Isolation()
        for (index, stage) in stages.enumerated() {
            // In any other order, one stage would see what another had cut.
            guard let place = isolation.add(stage), place >= index else {
                throw Self.refusal(of: "the pre_tokenizer stage \(stage.type) in place \(index)", file)
            }
        }
        result.isolation = isolation
        return result
    }

    /// The normalizer that the file describes: none, or Galactica's NFKC.
    func makeNormalizer(file: FilePath) throws(TokenizerError) -> CompatibilityNormalizer? {
        let stages = normalizer?.flattened ?? []
        guard let first = stages.first else { return nil }
        guard stages.count == 1, first.type == "NFKC" else {
            throw Self.refusal(of: "the normalizer \(stages.map(\.type).joined(separator: ", "))", file)
        }
        return CompatibilityNormalizer()
    }

    private static func refusal(of what: String, _ file: FilePath) -> TokenizerError {
        TokenizerError(
            .unsupportedTokenizer, file: file,
            """
            \(file): \(what) is not supported; Tandem reads the byte-level tokenizers of OPT and Galactica. \
            Use a folder with such a tokenizer.
            """)
    }
}

extension PreTokenizer.Isolation {
    /// Takes over a stage and returns its place among Galactica's, or nil where it is none of them.
    fileprivate mutating func add(_ stage: TokenizerJSON.Stage) -> Int? {
        guard stage.invert != true else { return nil }
        switch (stage.type, stage.behavior, stage.pattern?.String, stage.pattern?.Regex) {
        case ("Split", "Removed", let marker?, nil) where !marker.isEmpty && self == Self():
            removedMarker = Array(marker.utf8)
            return 0
        case ("Digits", _, nil, nil) where stage.individualDigits == true:
            guard !isolatesDigits, !isolatesPunctuation, !isolatesNewlines else { return nil }
            isolatesDigits = true
            return 1
        case ("Split", "Isolated", nil, Self.punctuationExpression):
            guard !isolatesPunctuation, !isolatesNewlines else { return nil }
            isolatesPunctuation = true
            return 2
        case ("Split", "Isolated", "\n", nil):
            guard !isolatesNewlines else { return nil }
            isolatesNewlines = true
            return 3
        default: return nil
        }
    }
}
