import SystemPackage

/// Checks what the files say, and makes the tokenizer's tables of it.
struct TokenizerBuilder {
    private let vocabulary: [String: Int]
    private let vocabularyFile: FilePath
    private let rules: [MergeRule]
    private let rulesFile: FilePath
    private let preTokenizer: PreTokenizer
    private let normalizer: CompatibilityNormalizer?
    private var addedTokens: [String: AddedToken] = [:]
    private var roles: [String: Int32] = [:]

    /// Far above any vocabulary: a larger id is a fault in the file, and the tables grow with it.
    private static let idLimit = 1 << 24

    init(
        vocabulary: [String: Int], vocabularyFile: FilePath, rules: [MergeRule], rulesFile: FilePath,
        preTokenizer: PreTokenizer, normalizer: CompatibilityNormalizer? = nil
    ) {
        self.vocabulary = vocabulary
        self.vocabularyFile = vocabularyFile
        self.rules = rules
        self.rulesFile = rulesFile
        self.preTokenizer = preTokenizer
        self.normalizer = normalizer
    }

    mutating func add(_ entry: AddedTokenEntry, id: Int, from file: FilePath) throws(TokenizerError) {
        let known = vocabulary[entry.content] ?? addedTokens[entry.content].map { Int($0.id) }
        if let known, known != id {
            throw TokenizerError(
                .invalidVocabulary, file: file,
                """
                \(file): the added token '\(entry.content)' has id \(id), and elsewhere \(known). Remove one \
                of the two.
                """
            )
        }
        if addedTokens[entry.content] == nil {
            addedTokens[entry.content] = entry.token(id: try Self.checked(id, of: entry.content, in: file))
        }
    }

    /// Finds the tokens with a role, and marks them and the additional special ones as special.
    mutating func nameSpecialTokens(_ files: SpecialTokenFiles) throws(TokenizerError) {
        for (role, entry) in files.roles.sorted(by: { $0.key < $1.key }) {
            let file = files.filesOfRoles[role] ?? vocabularyFile
            roles[role] = try markSpecial(entry, purpose: role, in: file)
        }
        for entry in files.additionalSpecialTokens {
            _ = try markSpecial(entry, purpose: "additional_special_tokens", in: vocabularyFile)
        }
        for role in ["bos_token", "eos_token"] where roles[role] == nil {
            roles[role] = try markSpecial(AddedTokenEntry(content: "</s>"), purpose: role, in: vocabularyFile)
        }
        if roles["pad_token"] == nil, id(of: "<pad>") != nil {
            roles["pad_token"] = try markSpecial(
                AddedTokenEntry(content: "<pad>"), purpose: "pad_token", in: vocabularyFile)
        }
    }

    func build() throws(TokenizerError) -> Tokenizer {
        let texts = try textsByID()
        let byteTokens = try byteTokens()
        let bytes = texts.map { text -> [UInt8] in
            guard let text else { return [] }
            // An added token is found in the text as it stands, so it stands for itself.
            if addedTokens[text] != nil { return Array(text.utf8) }
            return ByteLevelAlphabet.bytes(of: text) ?? Array(text.utf8)
        }
        let endOfSequence = roles["eos_token"] ?? 0
        let added = addedTokens.values.sorted { $0.id < $1.id }
        return Tokenizer(
            beginOfSequence: roles["bos_token"] ?? 0, endOfSequence: endOfSequence,
            padding: roles["pad_token"] ?? endOfSequence,
            vocabulary: Vocabulary(
                bytesOfTokens: bytes, byteTokens: byteTokens,
                specialTokens: Set(added.filter(\.isSpecial).map(\.id))),
            mergeTable: try mergeTable(), preTokenizer: preTokenizer,
            addedTokens: AddedTokenMatcher(added.filter { !$0.isNormalized }), normalizer: normalizer,
            normalizedAddedTokens: AddedTokenMatcher(added.filter(\.isNormalized)))
    }
}

extension TokenizerBuilder {
    private func id(of text: String) -> Int? {
        vocabulary[text] ?? addedTokens[text].map { Int($0.id) }
    }

    private mutating func markSpecial(
        _ entry: AddedTokenEntry, purpose: String, in file: FilePath
    ) throws(TokenizerError) -> Int32 {
        guard let id = id(of: entry.content) else {
            throw TokenizerError(
                .specialTokenMissing, file: vocabularyFile,
                """
                \(vocabularyFile) has no token '\(entry.content)', which \(file) needs for \(purpose). Use \
                the files of one model together.
                """)
        }
        let checkedID = try Self.checked(id, of: entry.content, in: vocabularyFile)
        var special = entry
        special.isSpecial = true
        addedTokens[entry.content, default: special.token(id: checkedID)].isSpecial = true
        return checkedID
    }

    /// The text of each id, nil in gaps.
    private func textsByID() throws(TokenizerError) -> [String?] {
        var texts: [String?] = Array(repeating: nil, count: vocabulary.count)
        func place(_ text: String, _ id: Int32) throws(TokenizerError) {
            let index = Int(id)
            while texts.count <= index { texts.append(nil) }
            if let other = texts[index], other != text {
                let pair = [other, text].sorted()
                throw TokenizerError(
                    .invalidVocabulary, file: vocabularyFile,
                    """
                    \(vocabularyFile): the tokens '\(pair[0])' and '\(pair[1])' have the same id \(id). \
                    Download the file again, or give one of them another id.
                    """)
            }
            texts[index] = text
        }
        for (text, id) in vocabulary { try place(text, try Self.checked(id, of: text, in: vocabularyFile)) }
        for token in addedTokens.values { try place(token.content, token.id) }
        while let last = texts.last, last == nil { texts.removeLast() }
        return texts
    }

    private func byteTokens() throws(TokenizerError) -> [Int32] {
        var tokens: [Int32] = []
        for (byte, scalar) in ByteLevelAlphabet.scalars.enumerated() {
            guard let id = vocabulary[String(Character(scalar))] else {
                throw TokenizerError(
                    .invalidVocabulary, file: vocabularyFile,
                    """
                    \(vocabularyFile) has no token for the byte \(byte), '\(scalar)', so some text would \
                    have no ids. A byte-level vocabulary has all 256; download the file again.
                    """)
            }
            tokens.append(try Self.checked(id, of: String(Character(scalar)), in: vocabularyFile))
        }
        return tokens
    }

    private func mergeTable() throws(TokenizerError) -> MergeTable {
        var table = MergeTable(capacity: rules.count)
        for (rank, rule) in rules.enumerated() {
            func id(_ text: String) throws(TokenizerError) -> Int32 {
                if let id = vocabulary[text] { return Int32(truncatingIfNeeded: id) }
                throw TokenizerError(
                    .invalidMerge, file: rulesFile,
                    """
                    \(rulesFile), \(rule.place): the merge '\(rule.left) \(rule.right)' needs the token \
                    '\(text)', which \(vocabularyFile) does not have. Use the vocabulary and the merges of \
                    one model.
                    """)
            }
            let left = try id(rule.left)
            let right = try id(rule.right)
            table.insert(.init(rank: rank, result: try id(rule.left + rule.right)), left: left, right: right)
        }
        return table
    }

    private static func checked(_ id: Int, of text: String, in file: FilePath) throws(TokenizerError) -> Int32
    {
        guard (0..<idLimit).contains(id) else {
            throw TokenizerError(
                .invalidVocabulary, file: file,
                """
                \(file): the token '\(text)' has the id \(id), which is outside 0 to \(idLimit - 1). \
                Download the file again, or mend the entry.
                """)
        }
        return Int32(id)
    }
}
