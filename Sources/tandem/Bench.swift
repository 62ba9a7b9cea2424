import ArgumentParser
import Engine

struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure prefill and decode, and hold them against what the machine sustains.",
        discussion: """
            Runs random prompts through a model, with random weights where no other are given, and measures the
            limits in the same run: how fast CPU memory, GPU memory, PCIe and disk can be read by doing nothing else,
            and the peak of fused multiply-adds.

              tandem bench --model facebook/opt-1.3b
              tandem bench --model facebook/opt-125m --gpu-batch-size 8 --prompt-len 128 --gen-len 64 --json
              tandem bench --model facebook/opt-6.7b --per-layer-percent 100 0 100 0 70 30 70 30
            """)

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-1.3b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Workload") var workload: WorkloadArguments

    @Flag(help: "Print the report as JSON.")
    var json = false

    func run() async throws {
        var options = try placement.engineOptions(modelArguments.engineOptions)
        options.expectedWorkload = workload.workload
        let engine = try await modelArguments.load(
            model, defaultPath: ModelReference.randomWeightsPath, options: options, isQuiet: json)
        let report = try await workload.run(on: engine)
        writeToStandardOutput(json ? try report.json() : report.text)
    }
}
