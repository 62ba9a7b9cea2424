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
        do {
            var command = try parseAsRoot(attachNegativeNumbers(Array(CommandLine.arguments.dropFirst())))
            if var command = command as? AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            CurrentGroup.end()
        } catch {
            CurrentGroup.leave(with: error, message(for: error))
            // All ranks see what is wrong with the arguments, and one says so, before the launcher ends them.
            if let rank = Launcher.rank, rank > 0, error is CleanExit || isOfArguments(error) {
                sleep(1)
                _exit(exitCode(for: error).rawValue)
            }
            exit(withError: error)
        }
    }

    /// Whether an error came before anything was done.
    private static func isOfArguments(_ error: any Error) -> Bool {
        exitCode(for: error) == .validationFailure
    }

    /// Ends the program with an error that came from the midst of computing.
    ///
    /// Nothing is taken apart: freeing memory waits for the GPU, which may have much of its step before it, or be lost.
    static func leave(with error: any Error) -> Never {
        CurrentGroup.leave(with: error, message(for: error))
        writeToStandardError(fullMessage(for: error) + "\n")
        _exit(exitCode(for: error).rawValue)
    }
}
