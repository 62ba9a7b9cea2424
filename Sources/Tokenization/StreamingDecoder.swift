/// Turns tokens into text one at a time, for output that appears while the model writes.
///
/// A token may end inside a character. Its bytes are held back until the character is whole or known to be
/// invalid, so that the pieces joined are what `Tokenizer.decode` gives for all the tokens together.
public struct StreamingDecoder: Sendable {
    private let vocabulary: Vocabulary
    private let skipsSpecialTokens: Bool
    private var heldBack: [UInt8] = []

    init(vocabulary: Vocabulary, skippingSpecialTokens: Bool) {
        self.vocabulary = vocabulary
        skipsSpecialTokens = skippingSpecialTokens
    }

    /// The text that is now certain, which may be empty.
    public mutating func append(_ token: Int32) -> String {
        if skipsSpecialTokens, vocabulary.isSpecial(token) { return "" }
        heldBack.append(contentsOf: vocabulary.bytes(of: token))
        let readyCount = heldBack.count - UTF8Sequence.incompleteSuffixByteCount(of: heldBack)
        let text = String(decoding: heldBack[..<readyCount], as: UTF8.self)
        heldBack.removeFirst(readyCount)
        return text
    }

    /// What is left at the end: U+FFFD for a character that was never completed, else nothing.
    public mutating func finish() -> String {
        defer { heldBack.removeAll() }
        return String(decoding: heldBack, as: UTF8.self)
    }
}
