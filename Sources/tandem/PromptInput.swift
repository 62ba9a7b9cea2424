import ArgumentParser
import Engine
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
            var text = try TextFile.text(of: Self.standardInput(), name: "standard input")
            if text.hasSuffix("\n") { text.removeLast() }
            return [text]
        }
        let bytes: [UInt8]
        if promptFile == "-" {
            bytes = Self.standardInput()
        } else {
            bytes = try TextFile.bytes(promptFile, what: "the prompts' file")
        }
        let text = try TextFile.text(of: bytes, name: promptFile == "-" ? "standard input" : promptFile)
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
}
