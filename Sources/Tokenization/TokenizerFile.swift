import FoundationEssentials
import SystemPackage

/// One of the files that describe a tokenizer, and the reading of it.
struct TokenizerFile {
    let path: FilePath

    init(_ name: String, in folder: FilePath) {
        path = folder.appending(name)
    }

    var exists: Bool {
        FileManager.default.fileExists(atPath: path.string)
    }

    func read() throws(TokenizerError) -> Data {
        do {
            return try Data(contentsOf: URL(filePath: path.string))
        } catch {
            throw TokenizerError(
                .fileUnreadable, file: path,
                "\(path) cannot be read: check that it is a file and that you may read it.")
        }
    }

    func decode<Content: Decodable>(_ type: Content.Type) throws(TokenizerError) -> Content {
        let data = try read()
        do {
            return try JSONDecoder().decode(type, from: data)
        } catch {
            throw TokenizerError(.invalidJSON, file: path, Self.sentence(about: error, in: path))
        }
    }

    /// What the file holds, or nil where there is none.
    func decodeIfPresent<Content: Decodable>(_ type: Content.Type) throws(TokenizerError) -> Content? {
        exists ? try decode(type) : nil
    }

    private static func sentence(about error: any Error, in path: FilePath) -> String {
        let advice = "Download the file again, or mend it."
        guard let error = error as? DecodingError else {
            return "\(path) cannot be decoded: \(error). \(advice)"
        }
        switch error {
        case .keyNotFound(let key, let context):
            return "\(path) has no entry '\(name(context.codingPath + [key]))'. \(advice)"
        case .typeMismatch(let type, let context), .valueNotFound(let type, let context):
            return "\(path): the entry '\(name(context.codingPath))' is not of the type \(type). \(advice)"
        case .dataCorrupted(let context) where !context.codingPath.isEmpty:
            let entry = name(context.codingPath)
            return "\(path): the entry '\(entry)' is wrong: \(context.debugDescription) \(advice)"
        case .dataCorrupted(let context):
            let detail = context.underlyingError.map { " (\($0))" } ?? ""
            return "\(path) is not valid JSON\(detail). \(advice)"
        @unknown default:
            return "\(path) cannot be decoded: \(error). \(advice)"
        }
    }

    private static func name(_ codingPath: [any CodingKey]) -> String {
        codingPath.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: ".")
    }
}
