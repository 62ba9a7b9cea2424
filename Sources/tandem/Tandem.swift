import ArgumentParser
import Collectives
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
            Generate.self, Bench.self, LowLatency.self, DistributedLowLatency.self, Balanced.self,
            Convert.self, Plan.self, PerplexityCommand.self, Doctor.self,
        ])

    static func main() async {
        do {
            var command = try parseAsRoot(attachNegativeNumbers(Array(CommandLine.arguments.dropFirst())))
            if var command = command as? AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            if CurrentGroup.exists {
                CurrentGroup.end()
                endAtOnce(EXIT_SUCCESS)
            }
        } catch {
            if let rank = Launcher.current?.claim.rank, rank > 0, !CurrentGroup.exists { leaveQuietly(error) }
            if isClean(error) { exit(withError: error) }
            CurrentGroup.leave(with: error, message(for: error)) { say(error) }
            if CurrentGroup.exists { endAtOnce(exitCode(for: error).rawValue) }
            Glibc.exit(exitCode(for: error).rawValue)
        }
    }

    /// What all ranks find wrong, or were asked for, rank 0 says, before the launcher ends them.
    private static func leaveQuietly(_ error: any Error) {
        if isClean(error) { _exit(EXIT_SUCCESS) }
        // Of its own way to the others.
        if let error = error as? CollectiveError, error.code != .missingLibrary { return }
        sleep(3)
        if isOfArguments(error) { _exit(exitCode(for: error).rawValue) }
    }

    /// Whether an "error" is help or the like, which was asked for.
    private static func isClean(_ error: any Error) -> Bool { exitCode(for: error) == .success }

    private static func say(_ error: any Error) {
        let text = fullMessage(for: error)
        if !text.isEmpty { writeToStandardError(text + "\n") }
    }

    /// Without what libraries do at a process's end, which may wait for ranks that have gone.
    private static func endAtOnce(_ status: Int32) -> Never {
        fflush(nil)
        _exit(status)
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
