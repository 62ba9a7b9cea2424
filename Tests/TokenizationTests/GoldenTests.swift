import Testing

@testable import Tokenization

@Suite struct `The same ids as Hugging Face's tokenizers` {
    @Test(arguments: ["vocabulary-files", "prefix-space", "galactica"])
    func `with a small vocabulary`(_ name: String) throws {
        try expectGoldenIDs(try Fixtures.tokenizer(name), name)
    }

    @Test(
        .enabled(
            if: Fixtures.hasOPTVocabulary,
            "OPT's vocab.json and merges.txt are not in ../shared/data/opt-tokenizer"))
    func `with OPT's vocabulary`() throws {
        let tokenizer = try Tokenizer(folder: Fixtures.optVocabulary)
        #expect(tokenizer.vocabularyCount == 50265)
        #expect(tokenizer.encode("Paris is the capital city of") == [2, 32826, 16, 5, 812, 343, 9])
        #expect(tokenizer.encode("Hello world", addingBeginOfSequence: false) == [31414, 232])
        try expectGoldenIDs(tokenizer, "opt")
    }

    private func expectGoldenIDs(_ tokenizer: Tokenizer, _ name: String) throws {
        let golden = try Fixtures.golden()
        let expected = try #require(golden.ids[name])
        #expect(golden.texts.count == expected.count)
        for (text, ids) in zip(golden.texts, expected) {
            #expect(tokenizer.encode(text, addingBeginOfSequence: false) == ids, "\(text.debugDescription)")
            #expect(tokenizer.encode(text) == [tokenizer.beginOfSequence] + ids)
        }
    }

    @Test func `merges written as pairs and as lines give the same tokenizer`() throws {
        let pairs = try Fixtures.text("prefix-space/tokenizer.json")
        let lines = pairs.replacing(/\["((?:[^"\\]|\\.)+)","((?:[^"\\]|\\.)+)"\]/) { "\"\($0.1) \($0.2)\"" }
        #expect(lines != pairs)
        let tokenizer = try withFolder(of: ["tokenizer.json": lines]) { try Tokenizer(folder: $0) }
        let reference = try Fixtures.tokenizer("prefix-space")
        for text in try Fixtures.golden().texts { #expect(tokenizer.encode(text) == reference.encode(text)) }
    }

    @Test func `tokenizer json goes before vocab json`() throws {
        let tokenizer = try withFolder(of: [
            "tokenizer.json": try Fixtures.text("galactica/tokenizer.json"), "vocab.json": "not JSON",
            "merges.txt": "not merges",
        ]) { try Tokenizer(folder: $0) }
        #expect(tokenizer.vocabularyCount == 401)
    }

    @Test func `one begin of sequence is put in front whatever the post-processor says`() throws {
        let text = try Fixtures.text("prefix-space/tokenizer.json").replacing(
            #""post_processor":null"#,
            with: """
                "post_processor":{"type":"TemplateProcessing","single":[\
                {"SpecialToken":{"id":"</s>","type_id":0}},\
                {"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}
                """)
        #expect(text.contains("TemplateProcessing"))
        let tokenizer = try withFolder(of: ["tokenizer.json": text]) { try Tokenizer(folder: $0) }
        let ids = tokenizer.encode("Alice")
        #expect(ids.filter { $0 == 2 }.count == 1)
        #expect(ids.first == 2)
    }
}
