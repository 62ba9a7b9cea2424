import FoundationEssentials
import SystemPackage
import Testing

@testable import Tokenization

/// The files that the tests read, found from this file's own place.
enum Fixtures {
    private static let packageRoot: FilePath = {
        var path = FilePath(#filePath)
        for _ in 0..<3 { path.removeLastComponent() }
        return path
    }()

    static let tokenizers = packageRoot.appending("Tests/Fixtures/Tokenizer")

    /// OPT's real vocabulary, which is kept beside the package and not in it.
    static let optVocabulary: FilePath = {
        var path = packageRoot
        path.removeLastComponent()
        return path.appending("shared/data/opt-tokenizer")
    }()

    static var hasOPTVocabulary: Bool {
        FileManager.default.fileExists(atPath: optVocabulary.appending("vocab.json").string)
    }

    static func tokenizer(_ name: String) throws -> Tokenizer {
        try Tokenizer(folder: tokenizers.appending(name))
    }

    static func golden() throws -> Golden {
        let path = tokenizers.appending("golden.json").string
        return try JSONDecoder().decode(Golden.self, from: Data(contentsOf: URL(filePath: path)))
    }

    static func text(_ path: String) throws -> String {
        let data = try Data(contentsOf: URL(filePath: tokenizers.appending(path).string))
        return String(decoding: data, as: UTF8.self)
    }
}

/// The ids that Hugging Face's tokenizers give, written by Tests/Fixtures/make_tokenizer_golden.py.
struct Golden: Decodable {
    var texts: [String]
    var ids: [String: [[Int32]]]
}

/// A folder that is there for the length of `body`, with the files given.
func withFolder<Result>(of files: [String: String], _ body: (FilePath) throws -> Result) throws -> Result {
    let name = "tandem-tokenizer-tests-\(UInt64.random(in: 0 ... .max))"
    let folder = FileManager.default.temporaryDirectory.appending(path: name)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    for (name, text) in files {
        try Data(text.utf8).write(to: folder.appending(path: name))
    }
    return try body(FilePath(folder.path))
}

/// SplitMix64: the same bytes in every run.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
