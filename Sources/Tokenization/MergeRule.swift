import SystemPackage

/// One merge as the file gives it, with its place for error sentences.
struct MergeRule {
    var left: String
    var right: String
    /// Such as "line 17".
    var place: Place

    enum Place: CustomStringConvertible {
        /// A line of merges.txt, counted from 1.
        case line(Int)
        /// An element of `model.merges`, counted from 0.
        case element(Int)

        var description: String {
            switch self {
            case .line(let number): "line \(number)"
            case .element(let index): "model.merges[\(index)]"
            }
        }
    }

    /// The rule that `text`, two symbols with a space between, stands for.
    init(parsing text: Substring, at place: Place, in file: FilePath) throws(TokenizerError) {
        let symbols = text.utf8.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard symbols.count == 2, !symbols[0].isEmpty, !symbols[1].isEmpty else {
            throw TokenizerError(
                .invalidMerge, file: file,
                """
                \(file), \(place): '\(text)' is not two symbols with a space between. Download the file again.
                """
            )
        }
        left = String(Substring(symbols[0]))
        right = String(Substring(symbols[1]))
        self.place = place
    }

    init(symbols: [String], at place: Place, in file: FilePath) throws(TokenizerError) {
        guard symbols.count == 2 else {
            throw TokenizerError(
                .invalidMerge, file: file,
                "\(file), \(place): \(symbols) is not a pair. Download the file again.")
        }
        left = symbols[0]
        right = symbols[1]
        self.place = place
    }

    /// The rules of a merges.txt: one a line, below a line `#version`.
    static func rules(inText file: TokenizerFile) throws(TokenizerError) -> [MergeRule] {
        guard let text = String(validating: try file.read(), as: UTF8.self) else {
            throw TokenizerError(
                .fileUnreadable, file: file.path, "\(file.path) is not UTF-8 text. Download the file again.")
        }
        var rules: [MergeRule] = []
        var lineNumber = 0
        for var line in text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            lineNumber += 1
            if line.last == UInt8(ascii: "\r") { line.removeLast() }
            if line.isEmpty || line.starts(with: "#version".utf8) { continue }
            rules.append(try MergeRule(parsing: Substring(line), at: .line(lineNumber), in: file.path))
        }
        return rules
    }
}
