import Foundation
import Testing

struct GenerateCommandTests {
    /// What `--json` prints.
    private struct Document: Decodable {
        struct Completion: Decodable {
            var prompt: String
            var text: String
            var tokens: [Int]
            var finishReason: String
        }
        var completions: [Completion]
    }

    @Test func `generate continues a prompt from any folder, text to output and statistics to errors`() throws
    {
        let folder = try TemporaryFolder()
        let result = try Program.run(
            ["generate", "--prompt", "Once upon a time", "--max-tokens", "24", "--seed", "1"],
            folder: folder.url)
        #expect(result.status == 0)
        #expect(result.output.count > 40)
        #expect(!result.output.contains("Once upon"))
        #expect(result.errors.contains("24 generated"))
        let quiet = try Program.run(
            ["generate", "-q", "--prompt", "Once upon a time", "--max-tokens", "24", "--seed", "1", "--echo"])
        #expect(quiet.output == "Once upon a time" + result.output)
        #expect(quiet.errors == "")
    }

    @Test func `prompts come from standard input, whole or by line`() throws {
        let arguments = ["generate", "--max-tokens", "8", "--temperature", "0", "-q", "--json"]
        func completions(_ result: Program.Result) throws -> [Document.Completion] {
            #expect(result.status == 0, "\(result.errors)")
            return try JSONDecoder().decode(Document.self, from: Data(result.output.utf8)).completions
        }
        let whole = try completions(Program.run(arguments, input: Data("The king\nand".utf8)))
        #expect(whole.map(\.prompt) == ["The king\nand"])
        let lines = try completions(
            Program.run(arguments + ["--prompt-file", "-"], input: Data("The king\n\nThe queen said\n".utf8)))
        #expect(lines.map(\.prompt) == ["The king", "The queen said"])
        #expect(lines.allSatisfy { $0.tokens.count == 8 && $0.finishReason == "maximum-tokens" })
        let alone = try completions(Program.run(arguments + ["--prompt", "The queen said"]))
        #expect(alone[0].text == lines[1].text)
        let inTurn = try completions(
            Program.run(
                arguments + ["--prompt-file", "-", "--batch-size", "1"],
                input: Data("The king\n\nThe queen said\n".utf8)))
        #expect(inTurn.map(\.text) == lines.map(\.text))
    }

    @Test func `a batch is printed prompt by prompt`() throws {
        let result = try Program.run(
            ["generate", "--prompt", "The king", "--prompt", "The queen", "--max-tokens", "6", "-q"])
        #expect(result.status == 0)
        let texts = result.output.split(separator: "\n\n")
        #expect(texts.count >= 2)
        #expect(result.output.hasPrefix("[1] The king"))
        #expect(result.output.contains("\n\n[2] The queen"))
    }

    @Test func `Ctrl-C prints what was done and ends with status 130`() throws {
        let result = try Program.run(
            ["generate", "--prompt", "Once", "--max-tokens", "2000", "--ignore-end-of-sequence"],
            interruptsAtOutput: true)
        #expect(result.status == 130)
        #expect(!result.output.isEmpty)
        // Where other programs take the processors a step may take too long.
        #expect(
            result.errors.contains(" generated in ")
                || result.errors.contains("stopped in the middle of a step"), "\(result.errors)")
    }

    @Test(
        arguments: [
            (["generate", "--prompt", ""], 1, "prompt 1 of 1 is empty"),
            (["generate", "--prompt", "a", "--max-tokens", "4000"], 1, "2048 positions"),
            (["generate", "--prompt", "a", "--model", "/no/such"], 1, "/no/such"),
            (["generate", "--prompt", "a", "--prompt-file", "b"], 64, "not both"),
            (["generate", "--prompt", "a", "--batch-size", "0"], 64, "batch size"),
            (["generate", "--prompt", "a", "--temperature", "warm"], 64, "warm"),
            (["generate", "--prompt", "a", "--temperature=-1"], 1, "temperature"),
            (["generate", "--prompt-file", "/no/such/file"], 1, "/no/such/file"),
            (["generate", "--prompt", "a", "--threads", "0"], 1, "0 threads"),
            (["bench", "--prompt-len", "0"], 64, "--prompt-len"),
            (["bench", "--model", "facebook/opt-125m", "--prompt-len", "3000"], 1, "positions"),
            (["bench", "--model", "opt-7b"], 1, "opt-7b"),
            (["bench", "--model", "facebook/opt-175b", "--device", "cpu"], 1, "GiB are free"),
            (["bench", "--device", "cpu", "--cpu-memory", "100MiB"], 1, "100.0 MiB may be used"),
            (["bench", "--cpu-memory", "100parsecs"], 64, "'100parsecs' is invalid"),
            (["fly"], 64, "fly"),
        ])
    func `a mistake is one sentence and a status`(arguments: [String], status: Int, sentence: String) throws {
        let result = try Program.run(arguments)
        #expect(result.status == Int32(status))
        #expect(result.errors.contains(sentence), "\(result.errors)")
        #expect(result.output == "")
    }

    @Test func `invalid UTF-8 on standard input is refused with the byte at fault`() throws {
        let result = try Program.run(["generate"], input: Data([0x48, 0xC3, 0xA9, 0xFF, 0x41]))
        #expect(result.status == 1)
        #expect(result.errors.contains("byte 3"))
        #expect(result.output == "")
    }

    @Test(arguments: ["bash", "zsh", "fish"]) func `shells get completions`(shell: String) throws {
        let result = try Program.run(["--generate-completion-script", shell])
        #expect(result.status == 0)
        #expect(result.output.contains("prompt-file"))
    }
}
