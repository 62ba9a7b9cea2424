import FoundationEssentials
import SystemPackage

extension PartialFolder {
    /// What a model's folder holds beside its configuration and weights.
    private static let textFiles = [
        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
        "special_tokens_map.json", "added_tokens.json",
    ]

    /// Copies the tokenizer and the recommended options for generating.
    func copyTextFiles(from folder: FilePath) throws(ModelError) {
        for name in Self.textFiles {
            let path = folder.appending(name)
            guard FileManager.default.fileExists(atPath: path.string) else { continue }
            guard let data = try? Data(contentsOf: URL(filePath: path.string)) else {
                throw ModelError(
                    .missingFile, file: path, "cannot read \(path); let it be read, or remove it")
            }
            try write(Array(data), to: name)
        }
    }
}
