import ArgumentParser
import Engine
import FoundationEssentials
import Glibc

/// Where prompts come from: the command line, a file with one on each line, or standard input.
struct PromptInput: ParsableArguments {
    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("A text to continue; may be given several times.", valueName: "text"))
    var prompt: [String] = []

    @Option(
        help: ArgumentHelp(
            "A file of prompts, one on each line; - for standard input.", valueName: "file"))
    var promptFile: String?

    func validate() throws {
        if !prompt.isEmpty && promptFile != nil {
            throw ValidationError("give either --prompt or --prompt-file, not both")
        }
        if prompt.isEmpty && promptFile == nil && isatty(STDIN_FILENO) == 1 {
            throw ValidationError(
                "no prompt: give --prompt \"Once upon a time\", --prompt-file FILE, or text on standard input"
            )
        }
    }

    func read() throws -> [String] {
        if !prompt.isEmpty { return prompt }
        guard let promptFile else {
            var text = try Self.text(of: Self.standardInput(), name: "standard input")
            if text.hasSuffix("\n") { text.removeLast() }
            return [text]
        }
        let bytes: [UInt8]
        if promptFile == "-" {
            bytes = Self.standardInput()
        } else {
            guard let data = try? Data(contentsOf: URL(filePath: promptFile)) else {
                throw EngineError(
                    .invalidOption, "cannot read the prompts' file \(promptFile): give a text file")
            }
            bytes = Array(data)
        }
        let text = try Self.text(of: bytes, name: promptFile == "-" ? "standard input" : promptFile)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: true).map(String.init)
        if lines.isEmpty {
            throw EngineError(.emptyPrompt, "\(promptFile) holds no prompt; write one on each line")
        }
        return lines
    }

    private static func standardInput() -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(STDIN_FILENO, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return bytes }
            bytes += chunk[..<count]
        }
    }

    private static func text(of bytes: [UInt8], name: String) throws -> String {
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
