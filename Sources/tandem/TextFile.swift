import Engine
import FoundationEssentials

/// Texts that are given as files.
enum TextFile {
    /// - Parameter what: what the file is to be, for the sentence that says that it cannot be read.
    static func bytes(_ path: String, what: String) throws(EngineError) -> [UInt8] {
        guard let data = try? Data(contentsOf: URL(filePath: path)) else {
            throw EngineError(.invalidOption, "cannot read \(what) \(path): give a text file")
        }
        return Array(data)
    }

    /// - Parameter name: what the bytes are called where they are no text.
    static func text(of bytes: [UInt8], name: String) throws(EngineError) -> String {
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        var iterator = bytes.makeIterator()
        var decoder = UTF8()
        var offset = 0
        while case .scalarValue(let scalar) = decoder.decode(&iterator) { offset += UTF8.width(scalar) }
        throw EngineError(
            .invalidOption,
            "\(name) is not UTF-8: byte \(offset) begins no valid character; convert the text, for example with "
                + "iconv -t utf-8")
    }
}
