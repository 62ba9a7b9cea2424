extension Tokenizer {
    /// The text of ids. Bytes that are no valid UTF-8 become U+FFFD; ids without a token are left out.
    public func decode(_ tokens: some Sequence<Int32>, skippingSpecialTokens: Bool = true) -> String {
        var bytes: [UInt8] = []
        for token in tokens where !(skippingSpecialTokens && vocabulary.isSpecial(token)) {
            bytes.append(contentsOf: vocabulary.bytes(of: token))
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The exact bytes that an id stands for; empty where no token has the id.
    public func bytes(of token: Int32) -> [UInt8] {
        Array(vocabulary.bytes(of: token))
    }

    /// A decoder for tokens that arrive one at a time.
    public func makeStreamingDecoder(skippingSpecialTokens: Bool = true) -> StreamingDecoder {
        StreamingDecoder(vocabulary: vocabulary, skippingSpecialTokens: skippingSpecialTokens)
    }
}
