public import SystemPackage

extension Tokenizer {
    /// Reads the tokenizer of a model's folder: `tokenizer.json`, or else `vocab.json` with `merges.txt`.
    ///
    /// What tokenizer_config.json, special_tokens_map.json and added_tokens.json say of special tokens is
    /// honoured where they are present. Without them `</s>` begins and ends a text and `<pad>` fills it up,
    /// as in OPT.
    public init(folder: FilePath) throws(TokenizerError) {
        let special = try SpecialTokenFiles(folder: folder)
        let file = TokenizerFile("tokenizer.json", in: folder)
        var builder =
            if file.exists {
                try TokenizerBuilder(file: file)
            } else {
                try TokenizerBuilder(vocabularyFilesIn: folder, special: special)
            }
        try builder.nameSpecialTokens(special)
        self = try builder.build()
    }
}

extension TokenizerBuilder {
    fileprivate init(file: TokenizerFile) throws(TokenizerError) {
        let path = file.path
        let content = try file.decode(TokenizerJSON.self)
        guard let vocabulary = content.model.vocabulary else {
            throw TokenizerError(
                .unsupportedTokenizer, file: path,
                """
                \(path): the model is \(content.model.type ?? "unknown"), and Tandem reads BPE only. \
                Use a folder with the tokenizer of an OPT model.
                """)
        }
        if let option = content.model.unsupportedOptions.first {
            throw TokenizerError(
                .unsupportedTokenizer, file: path,
                "\(path): model.\(option) is not supported. Use a folder with the tokenizer of an OPT model.")
        }
        var rules: [MergeRule] = []
        rules.reserveCapacity(content.model.merges.count)
        for (index, entry) in content.model.merges.enumerated() {
            switch entry {
            case .line(let text):
                rules.append(try MergeRule(parsing: text[...], at: .element(index), in: path))
            case .symbols(let symbols):
                rules.append(try MergeRule(symbols: symbols, at: .element(index), in: path))
            }
        }
        self.init(
            vocabulary: vocabulary, vocabularyFile: path, rules: rules, rulesFile: path,
            preTokenizer: try content.makePreTokenizer(file: path),
            normalizer: try content.makeNormalizer(file: path))
        for (index, entry) in (content.addedTokens ?? []).enumerated() {
            guard let id = entry.id else {
                throw TokenizerError(
                    .invalidJSON, file: path,
                    "\(path): added_tokens[\(index)], '\(entry.content)', has no id. Mend the entry.")
            }
            try add(entry, id: id, from: path)
        }
    }

    fileprivate init(
        vocabularyFilesIn folder: FilePath, special: SpecialTokenFiles
    ) throws(TokenizerError) {
        let vocabularyFile = TokenizerFile("vocab.json", in: folder)
        let mergesFile = TokenizerFile("merges.txt", in: folder)
        let missing = [vocabularyFile, mergesFile].filter { !$0.exists }
        if let first = missing.first {
            let name = first.path.lastComponent?.string ?? ""
            throw TokenizerError(
                .fileMissing, file: first.path,
                missing.count == 2
                    ? """
                    \(folder) has no tokenizer: put tokenizer.json there, or vocab.json and merges.txt, from \
                    the model's page.
                    """
                    : """
                    \(first.path) is missing: put \(name) beside the other file, or a tokenizer.json, from \
                    the model's page.
                    """)
        }
        let rules = try MergeRule.rules(inText: mergesFile)
        self.init(
            vocabulary: try vocabularyFile.decode([String: Int].self), vocabularyFile: vocabularyFile.path,
            rules: rules, rulesFile: mergesFile.path,
            preTokenizer: PreTokenizer(addsPrefixSpace: special.addsPrefixSpace ?? false))
        for (entry, id, file) in special.addedTokens { try add(entry, id: id, from: file) }
    }
}
