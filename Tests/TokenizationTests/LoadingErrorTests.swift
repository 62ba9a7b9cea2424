import FoundationEssentials
import SystemPackage
import Testing

@testable import Tokenization

@Suite struct `Loading refuses, and says why` {
    private let vocabulary: String
    private let merges: String
    private let tokenizerJSON: String

    init() throws {
        vocabulary = try Fixtures.text("vocabulary-files/vocab.json")
        merges = try Fixtures.text("vocabulary-files/merges.txt")
        tokenizerJSON = try Fixtures.text("galactica/tokenizer.json")
    }

    @Test func `a folder that is not there`() throws {
        let error = try #require(throws: TokenizerError.self) { try Tokenizer(folder: "/no/such/folder") }
        #expect(error.code == .fileMissing)
        #expect(error.description.contains("/no/such/folder has no tokenizer: put tokenizer.json there"))
    }

    @Test func `a folder without a tokenizer`() throws {
        try expectError(.fileMissing, says: ["put tokenizer.json there, or vocab.json and merges.txt"], [:])
    }

    @Test func `a missing file of the two`() throws {
        try expectError(.fileMissing, says: ["vocab.json is missing"], ["merges.txt": merges])
        try expectError(.fileMissing, says: ["merges.txt is missing"], ["vocab.json": vocabulary])
    }

    @Test func `a file that is not JSON`() throws {
        try expectError(
            .invalidJSON, says: ["vocab.json is not valid JSON"],
            ["vocab.json": String(vocabulary.dropLast(2)), "merges.txt": merges])
        try expectError(.invalidJSON, says: ["tokenizer.json is not valid JSON"], ["tokenizer.json": ""])
        try expectError(
            .invalidJSON, says: ["special_tokens_map.json is not valid JSON"],
            ["special_tokens_map.json": "{", "vocab.json": vocabulary, "merges.txt": merges])
    }

    @Test func `an id that is no number`() throws {
        try expectError(
            .invalidJSON, says: ["vocab.json", "'<pad>'"],
            [
                "vocab.json": vocabulary.replacing(#""<pad>":1,"#, with: #""<pad>":"1","#),
                "merges.txt": merges,
            ])
    }

    @Test func `a tokenizer json without a vocabulary`() throws {
        try expectError(
            .invalidJSON, says: ["tokenizer.json has no entry 'model.vocab'"],
            ["tokenizer.json": #"{"model": {"type": "BPE", "merges": []}}"#])
    }

    @Test func `a merge whose parts or result are not in the vocabulary`() throws {
        let lineCount = merges.split(separator: "\n").count
        for (line, token) in [("zq a", "zq"), ("a zq", "zq"), ("q z", "qz")] {
            try expectError(
                .invalidMerge,
                says: ["merges.txt, line \(lineCount + 1): the merge '\(line)' needs the token '\(token)'"],
                ["vocab.json": vocabulary, "merges.txt": merges + line + "\n"])
        }
        try expectError(
            .invalidMerge, says: ["tokenizer.json, model.merges[0]: the merge 'q z' needs the token 'qz'"],
            ["tokenizer.json": tokenizerJSON.replacing(#""merges":["#, with: #""merges":[["q","z"],"#)])
    }

    @Test func `a merge that is not two symbols`() throws {
        for line in ["h", "h e r", "h ", " h", "h  e"] {
            try expectError(
                .invalidMerge, says: ["merges.txt, line 2: '\(line)' is not two symbols"],
                ["vocab.json": vocabulary, "merges.txt": "#version: 0.2\n\(line)\n"])
        }
        try expectError(
            .invalidMerge, says: ["tokenizer.json, model.merges[0]", "is not a pair"],
            ["tokenizer.json": tokenizerJSON.replacing(#""merges":["#, with: #""merges":[["h","e","r"],"#)])
    }

    @Test func `two tokens with one id`() throws {
        try expectError(
            .invalidVocabulary, says: ["the tokens '<pad>' and '<s>' have the same id 0"],
            ["vocab.json": vocabulary.replacing(#""<pad>":1,"#, with: #""<pad>":0,"#), "merges.txt": merges])
    }

    @Test func `an added token with another id than in the vocabulary`() throws {
        try expectError(
            .invalidVocabulary, says: ["added_tokens.json: the added token '<s>' has id 7, and elsewhere 0"],
            ["added_tokens.json": #"{"<s>": 7}"#, "vocab.json": vocabulary, "merges.txt": merges])
    }

    @Test func `an id that is negative or past any vocabulary`() throws {
        for id in ["-1", "16777216", "3000000000"] {
            try expectError(
                .invalidVocabulary, says: ["vocab.json: the token '<pad>' has the id \(id)"],
                [
                    "vocab.json": vocabulary.replacing(#""<pad>":1,"#, with: #""<pad>":\#(id),"#),
                    "merges.txt": merges,
                ])
        }
    }

    @Test func `a vocabulary without one of the 256 bytes`() throws {
        try expectError(
            .invalidVocabulary, says: ["vocab.json has no token for the byte 10, 'Ċ'"],
            ["vocab.json": vocabulary.replacing(#""Ċ":"#, with: #""newline":"#), "merges.txt": merges])
    }

    @Test func `a role whose token is not in the vocabulary`() throws {
        try expectError(
            .specialTokenMissing, says: ["no token '</s>'", "bos_token"],
            ["vocab.json": vocabulary.replacing(#""</s>":"#, with: #""<end>":"#), "merges.txt": merges])
        try expectError(
            .specialTokenMissing, says: ["no token '[PAD]'", "tokenizer_config.json needs for pad_token"],
            [
                "tokenizer_config.json": #"{"pad_token": "[PAD]"}"#, "vocab.json": vocabulary,
                "merges.txt": merges,
            ])
    }

    @Test func `a model that is not BPE`() throws {
        try expectError(
            .unsupportedTokenizer, says: ["tokenizer.json: the model is Unigram, and Tandem reads BPE only"],
            ["tokenizer.json": #"{"model": {"type": "Unigram", "vocab": [["a", -1.5]]}}"#])
    }

    @Test func `options and stages that change ids`() throws {
        for (from, to, says) in [
            (#""ignore_merges":false"#, #""ignore_merges":true"#, "model.ignore_merges is not supported"),
            (#""end_of_word_suffix":null"#, #""end_of_word_suffix":"</w>""#, "model.end_of_word_suffix"),
            (#""type":"NFKC""#, #""type":"Lowercase""#, "the normalizer Lowercase is not supported"),
            (#""type":"Digits""#, #""type":"Punctuation""#, "the pre_tokenizer stage Punctuation in place 1"),
            (#""type":"ByteLevel","add_prefix_space":false"#, #""type":"Metaspace","x":0"#, "ByteLevel"),
        ] {
            let changed = tokenizerJSON.replacing(from, with: to, maxReplacements: 1)
            #expect(changed != tokenizerJSON)
            try expectError(
                .unsupportedTokenizer, says: ["tokenizer.json", says], ["tokenizer.json": changed])
        }
    }

    @Test func `a file that is not UTF-8, or is a folder`() throws {
        try withFolder(of: ["vocab.json": vocabulary]) { folder in
            let path = folder.appending("merges.txt").string
            try Data([0x68, 0x20, 0xFF, 0x0A]).write(to: URL(filePath: path))
            var error = #expect(throws: TokenizerError.self) { try Tokenizer(folder: folder) }
            #expect(error?.code == .fileUnreadable)
            #expect(error?.description.contains("merges.txt is not UTF-8 text") == true)
            try FileManager.default.removeItem(atPath: path)
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
            error = #expect(throws: TokenizerError.self) { try Tokenizer(folder: folder) }
            #expect(error?.code == .fileUnreadable)
            #expect(error?.description.contains("merges.txt cannot be read") == true)
        }
    }

    private func expectError(
        _ code: TokenizerError.Code, says parts: [String], _ files: [String: String],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try withFolder(of: files) { folder in
            let error = #expect(throws: TokenizerError.self, sourceLocation: sourceLocation) {
                try Tokenizer(folder: folder)
            }
            guard let error else { return }
            #expect(error.code == code, sourceLocation: sourceLocation)
            #expect(error.file.starts(with: folder), sourceLocation: sourceLocation)
            for part in parts {
                #expect(
                    error.description.contains(part), "\(error.description)", sourceLocation: sourceLocation)
            }
            // A way out follows the fault.
            #expect(error.description.hasSuffix("."), sourceLocation: sourceLocation)
        }
    }
}
