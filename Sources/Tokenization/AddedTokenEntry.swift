/// An added token as files write it: its text alone, or an object with the flags of `AddedToken`.
struct AddedTokenEntry: Decodable {
    var id: Int?
    var content: String
    var stripsLeft = false
    var stripsRight = false
    var isWholeWord = false
    /// Where a file does not say, special tokens are not and others are.
    var isNormalized: Bool?
    var isSpecial = false

    private enum Key: String, CodingKey {
        case id, content, lstrip, rstrip, single_word, normalized, special
    }

    init(content: String) {
        self.content = content
    }

    init(from decoder: any Decoder) throws {
        if let content = try? decoder.singleValueContainer().decode(String.self) {
            self.init(content: content)
            return
        }
        let container = try decoder.container(keyedBy: Key.self)
        func flag(_ key: Key) throws -> Bool? { try container.decodeIfPresent(Bool.self, forKey: key) }
        self.init(content: try container.decode(String.self, forKey: .content))
        id = try container.decodeIfPresent(Int.self, forKey: .id)
        stripsLeft = try flag(.lstrip) ?? false
        stripsRight = try flag(.rstrip) ?? false
        isWholeWord = try flag(.single_word) ?? false
        isSpecial = try flag(.special) ?? false
        isNormalized = try flag(.normalized)
    }

    func token(id: Int32) -> AddedToken {
        AddedToken(
            content: content, id: id, isSpecial: isSpecial, stripsLeft: stripsLeft, stripsRight: stripsRight,
            isWholeWord: isWholeWord, isNormalized: isNormalized ?? !isSpecial)
    }
}
