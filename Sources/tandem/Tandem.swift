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
        subcommands: [
            Generate.self, Bench.self, LowLatency.self, DistributedLowLatency.self, Balanced.self, Plan.self,
            Doctor.self,
        ])

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
            if let rank = Launcher.current?.claim.rank, rank > 0, !CurrentGroup.exists {
                // What all ranks find wrong rank 0 says, before the launcher ends them.
                sleep(3)
                if error is CleanExit || isOfArguments(error) { _exit(exitCode(for: error).rawValue) }
            }
            CurrentGroup.leave(with: error, message(for: error)) { say(error) }
            if error is CleanExit { exit(withError: error) }
            Glibc.exit(exitCode(for: error).rawValue)
        }
    }

    private static func say(_ error: any Error) {
        let text = fullMessage(for: error)
        if error is CleanExit || text.isEmpty { return }
        writeToStandardError(text + "\n")
    }

    /// Whether an error came before anything was done.
    private static func isOfArguments(_ error: any Error) -> Bool {
        exitCode(for: error) == .validationFailure
    }

    /// Ends the program with an error that came from the midst of computing.
    ///
    /// Nothing is taken apart: freeing memory waits for the GPU, which may have much of its step before it, or be lost.
    static func leave(with error: any Error) -> Never {
        CurrentGroup.leave(with: error, message(for: error)) { say(error) }
        _exit(exitCode(for: error).rawValue)
    }
}
