import ArgumentParser
import Engine

/// Several processes compute every layer together, each with a GPU of its own.
struct DistributedLowLatency: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dist-low-latency-opt",
        abstract:
            "Generate for random prompts on several GPUs, a process each, and report as FlexGen does.",
        discussion: """
            Each process computes a part of the heads, of the MLP and of the vocabulary, and keeps and streams its part of
            the weights as low-latency-opt does. Rank 0 prints.

              mpirun -n 4 tandem dist-low-latency-opt --use-mpi --model facebook/opt-6.7b --path _DUMMY_ \\
                  --cache-percent 100 0 --per-layer-percent 100 0 100 0 100 0 100 0 --gpu-batch-size 24
              tandem dist-low-latency-opt --rank 0 --world-size 2 --head-ip 10.0.0.1 --port 7777 --path _DUMMY_
            """,
        aliases: ["dist_low_latency_opt"])

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-6.7b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Workload") var workload: WorkloadArguments
    @OptionGroup(title: "Log") var log: LogArguments
    @OptionGroup(title: "Several processes") var processes: GroupArguments

    func run() async throws {
        var options = modelArguments.engineOptions
        options.placesFor = .streaming
        options = try placement.engineOptions(options)
        if options.computesOn == .automatic { options.computesOn = .gpu }
        options.expectedWorkload = workload.workload
        let isConductor = try await modelArguments.join(
            processes, model, placement: placement, options: &options)
        if !isConductor { return }
        let engine = try await modelArguments.load(
            model, options: options, isQuiet: false, isVerbose: processes.verbose)
        let report = try await workload.run(on: engine)
        writeToStandardOutput(report.text)
        try log.write(report)
    }
}
