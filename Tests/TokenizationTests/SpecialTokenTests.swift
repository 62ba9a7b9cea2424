import Testing

@testable import Tokenization

@Suite struct `Special tokens` {
    @Test func `without a configuration they are OPT's`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        #expect(tokenizer.beginOfSequence == 2)
        #expect(tokenizer.endOfSequence == 2)
        #expect(tokenizer.padding == 1)
        // `<s>` and `<unk>` are in the vocabulary and have no role in OPT.
        #expect(tokenizer.encode("</s><pad>", addingBeginOfSequence: false) == [2, 1])
        #expect(tokenizer.encode("<s>", addingBeginOfSequence: false).count == 3)
    }

    @Test func `a configuration names them, as text or with flags`() throws {
        let tokenizer = try load(adding: [
            "tokenizer_config.json": """
            {"bos_token": "<s>", "pad_token": {"content": "<unk>", "lstrip": true}, "unk_token": null,
             "add_prefix_space": true, "model_max_length": 2048}
            """,
            "special_tokens_map.json": #"{"bos_token": "<pad>", "eos_token": {"content": "</s>"}}"#,
        ])
        #expect(tokenizer.beginOfSequence == 0)
        #expect(tokenizer.endOfSequence == 2)
        #expect(tokenizer.padding == 3)
        #expect(
            tokenizer.encode("a  <unk> a", addingBeginOfSequence: false)
                == tokenizer.encode("a", addingBeginOfSequence: false) + [3]
                + tokenizer.encode(" a", addingBeginOfSequence: false))
    }

    @Test func `added tokens may lie past the vocabulary and after a gap`() throws {
        let tokenizer = try load(adding: ["added_tokens.json": #"{"[Z]": 405, "[Z][Z]": 404}"#])
        #expect(tokenizer.vocabularyCount == 406)
        #expect(tokenizer.encode("[Z][Z][Z]", addingBeginOfSequence: false) == [404, 405])
        #expect(tokenizer.decode([405, 401, 404]) == "[Z][Z][Z]")
        #expect(tokenizer.bytes(of: 401) == [])
    }

    @Test func `decoding leaves special tokens out unless told`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        let ids = tokenizer.encode("Alice</s>")
        #expect(tokenizer.decode(ids) == "Alice")
        #expect(tokenizer.decode(ids, skippingSpecialTokens: false) == "</s>Alice</s>")
    }

    @Test func `ids without a token decode to nothing`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        #expect(tokenizer.decode([-1, 400, .max, .min]) == "")
        #expect(tokenizer.bytes(of: -1) == [])
    }

    private func load(adding files: [String: String]) throws -> Tokenizer {
        var files = files
        files["vocab.json"] = try Fixtures.text("vocabulary-files/vocab.json")
        files["merges.txt"] = try Fixtures.text("vocabulary-files/merges.txt")
        return try withFolder(of: files) { try Tokenizer(folder: $0) }
    }
}
