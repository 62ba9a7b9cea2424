import Engine

/// What one prompt came to, as `--json` prints it.
struct Completion: Encodable, Sendable {
    var prompt: String
    var text = ""
    var tokens: [Int32] = []
    var logProbabilities: [TokenLogProbabilities]?
    var finishReason: GenerationPiece.FinishReason?
}

/// Prints the texts of a batch one below the other: the first that is unfinished as it is made, those behind it when
/// their turn comes.
struct CompletionPrinter: Sendable {
    private(set) var completions: [Completion]
    private let echoes: Bool
    private let isSilent: Bool
    /// The prompt whose text is being printed.
    private var current = 0
    private var hasHeader = false

    init(prompts: [String], echoes: Bool, isSilent: Bool) {
        completions = prompts.map { Completion(prompt: $0) }
        self.echoes = echoes
        self.isSilent = isSilent
    }

    mutating func take(_ piece: GenerationPiece, firstPrompt: Int) {
        let index = firstPrompt + piece.sequence
        completions[index].text += piece.text
        if let token = piece.token { completions[index].tokens.append(token) }
        if let logProbabilities = piece.logProbabilities {
            completions[index].logProbabilities =
                (completions[index].logProbabilities ?? []) + [logProbabilities]
        }
        completions[index].finishReason = piece.finishReason
        guard index == current else { return }
        printHeader()
        write(piece.text)
        if piece.finishReason != nil { advance() }
    }

    /// Marks texts that have no end.
    mutating func cancel() {
        for index in completions.indices where completions[index].finishReason == nil {
            completions[index].finishReason = .cancelled
        }
    }

    /// Ends a text that was cut off.
    func finish() {
        if hasHeader { write("\n") }
    }

    /// Goes on to the next prompt whose text is not complete, printing those that are.
    private mutating func advance() {
        write("\n")
        current += 1
        hasHeader = false
        while current < completions.count, !completions[current].tokens.isEmpty {
            printHeader()
            write(completions[current].text)
            if completions[current].finishReason == nil { return }
            write("\n")
            current += 1
            hasHeader = false
        }
    }

    private mutating func printHeader() {
        if hasHeader { return }
        hasHeader = true
        if completions.count > 1 { write("\(current == 0 ? "" : "\n")[\(current + 1)] ") }
        if echoes || completions.count > 1 { write(completions[current].prompt) }
    }

    private func write(_ text: String) {
        if !isSilent && !text.isEmpty { writeToStandardOutput(text) }
    }
}
