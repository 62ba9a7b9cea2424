import ArgumentParser
import Engine
import FoundationEssentials

/// One GPU computes everything; weights that are not on it are streamed to it.
struct LowLatency: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "low-latency-opt",
        abstract:
            "Generate for random prompts on one GPU, with weights on GPU, CPU and disk, and report as FlexGen does.",
        discussion: """
            --per-layer-percent is GPU % and CPU % of input embedding, output embedding, self-attention and MLP; the
            rest is on disk. Without it as much lies on the GPU as fits.

              tandem low-latency-opt --model facebook/opt-6.7b --path _DUMMY_
              tandem low-latency-opt --model facebook/opt-30b --path _DUMMY_ --cache-percent 100 0 \\
                  --per-layer-percent 0 100 0 100 0 100 0 100 --gpu-batch-size 1
            """,
        aliases: ["low_latency_opt"])

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-6.7b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Workload") var workload: WorkloadArguments
    @OptionGroup(title: "Log") var log: LogArguments

    func run() async throws {
        try await runOnGPU(
            model, aim: .streaming, modelArguments: modelArguments, placement: placement, workload: workload,
            log: log)
    }
}

/// Where the report goes beside standard output.
struct LogArguments: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Append the report to a file; auto names it after the model and the workload.", valueName: "file")
    )
    var logFile: String?

    @Flag(help: "Write no log, whatever --log-file says.")
    var noLog = false

    func write(_ report: BenchReport) throws {
        guard let logFile, !noLog else { return }
        let name = report.model.split(separator: "/").last.map(String.init) ?? report.model
        let automatic =
            "tandem-\(name)-gbs\(report.batchSize)-prompt\(report.promptLength)-gen\(report.generationLength).log"
        let path = logFile == "auto" ? automatic : logFile
        var text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        text += report.text
        do {
            try Data(text.utf8).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw ValidationError(
                "the log \(path) cannot be written: \(error); give --log-file a file that can")
        }
    }
}
