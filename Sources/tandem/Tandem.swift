import ArgumentParser

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
}
