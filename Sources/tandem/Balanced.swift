import ArgumentParser
import Engine

/// CPU and GPU compute every layer together.
struct Balanced: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "balanced-opt",
        abstract:
            "Generate for random prompts with CPU and GPU computing every layer together, and report as FlexGen does.",
        discussion: """
            --per-layer-weight-percent is GPU % and CPU % of input embedding, output embedding, self-attention and MLP;
            --per-layer-computation-percent is the GPU's % of the computation of each. What the GPU computes and does not
            have is streamed to it, while the CPU computes the rest where it lies. Without them the planner chooses
            (--placement auto; tandem plan says what and why).

              tandem balanced-opt --model facebook/opt-6.7b --path _DUMMY_ --gpu-batch-size 1 \\
                  --per-layer-weight-percent 0 100 0 100 0 100 0 100 --per-layer-computation-percent 30 30 30 30
            """,
        aliases: ["balanced_opt"])

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-6.7b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Workload") var workload: WorkloadArguments
    @OptionGroup(title: "Log") var log: LogArguments

    func run() async throws {
        try await runOnGPU(
            model, aim: .latency, modelArguments: modelArguments, placement: placement, workload: workload,
            log: log)
    }
}

/// What the programs on one GPU do: load, run the prompts, report.
func runOnGPU(
    _ model: String, aim: Engine.Aim, modelArguments: ModelArguments, placement: PlacementArguments,
    workload: WorkloadArguments, log: LogArguments
) async throws {
    var options = modelArguments.engineOptions
    options.placesFor = aim
    options = try placement.engineOptions(options)
    options.computesOn = .gpu
    options.expectedWorkload = workload.workload
    let engine = try await modelArguments.load(model, options: options, isQuiet: false)
    let report = try await workload.run(on: engine)
    writeToStandardOutput(report.text)
    try log.write(report)
}
