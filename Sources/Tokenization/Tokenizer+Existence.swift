public import SystemPackage

extension Tokenizer {
    /// Whether a folder holds tokenizer files of either form, complete or not.
    public static func exists(in folder: FilePath) -> Bool {
        ["tokenizer.json", "vocab.json", "merges.txt"].contains { TokenizerFile($0, in: folder).exists }
    }
}
