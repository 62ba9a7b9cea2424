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
              tandem bench --model facebook/opt-6.7b --gpu-memory 4GiB --sweep computation --svg sweep.svg
            """)

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-1.3b"

    @OptionGroup(title: "Model") var modelArguments: ModelArguments
    @OptionGroup(title: "Placement") var placement: PlacementArguments
    @OptionGroup(title: "Workload") var workload: WorkloadArguments
    @OptionGroup(title: "Several processes") var processes: GroupArguments

    @Flag(help: "Print the report as JSON.")
    var json = false

    @Option(
        help: ArgumentHelp(
            "computation: run at shares of the GPU's computation from 0 to 100 %, and with the planner's choice, and draw "
                + "the latency.", valueName: "what"))
    var sweep: SweptQuantity?

    @Option(help: ArgumentHelp("Shares that a sweep measures.", valueName: "count"))
    var sweepPoints = 21

    @Option(
        help: ArgumentHelp(
            "How often a sweep's three best shares and the planner's choice run again, in turns.",
            valueName: "count"))
    var sweepRounds = 3

    @Option(help: ArgumentHelp("Write the drawing of a sweep as SVG.", valueName: "file"))
    var svg: String?

    func validate() throws {
        if sweep == nil && svg != nil {
            throw ValidationError("--svg draws a sweep; give --sweep computation")
        }
        if sweep != nil && placement.compression.isAutomatic {
            throw ValidationError(
                "--sweep compares placements of one form; give --compress-weight or --compress-cache instead of --compress auto"
            )
        }
        if try sweep != nil && processes.hasOthers {
            throw ValidationError("--sweep compares what one process does; start one")
        }
        if sweepPoints < 2 { throw ValidationError("--sweep-points is \(sweepPoints); give 2 or more") }
        if sweepRounds < 1 { throw ValidationError("--sweep-rounds is \(sweepRounds); give 1 or more") }
    }

    func run() async throws {
        if sweep != nil { return try await runSweep() }
        var options = try placement.engineOptions(modelArguments.engineOptions)
        options.expectedWorkload = workload.workload
        let isConductor = try await modelArguments.join(
            processes, model, defaultPath: ModelReference.randomWeightsPath, placement: placement,
            options: &options)
        if !isConductor { return }
        let engine = try await modelArguments.load(
            model, defaultPath: ModelReference.randomWeightsPath, options: options, isQuiet: json,
            isVerbose: processes.verbose)
        let report = try await workload.run(on: engine)
        writeToStandardOutput(json ? try report.json() : report.text)
    }

    private func runSweep() async throws {
        let report = try await Sweep(
            model: model, modelArguments: modelArguments, placement: placement, workload: workload,
            pointCount: sweepPoints, roundCount: sweepRounds, isQuiet: json
        ).run()
        writeToStandardOutput(json ? try report.json() : report.text)
        guard let svg else { return }
        do {
            try report.chart.svg.write(toFile: svg, atomically: true, encoding: .utf8)
        } catch {
            throw ValidationError(
                "the drawing \(svg) cannot be written: \(error); give --svg a file that can")
        }
    }
}
