import ArgumentParser
import Glibc

@main
struct Tandem: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tandem",
        abstract: "Low-latency inference of OPT language models that do not fit into the GPU.",
        discussion: """
            Shell completions: tandem --generate-completion-script bash|zsh|fish
            """,
        version: "0.1.0",
        subcommands: [Generate.self, Bench.self, LowLatency.self, Balanced.self, Plan.self, Doctor.self])

    static func main() async {
        await main(attachNegativeNumbers(Array(CommandLine.arguments.dropFirst())))
    }

    /// Ends the program with an error that came from the midst of computing.
    ///
    /// Nothing is taken apart: freeing memory waits for the GPU, which may have much of its step before it, or be lost.
    static func leave(with error: any Error) -> Never {
        writeToStandardError(fullMessage(for: error) + "\n")
        _exit(exitCode(for: error).rawValue)
    }
}
