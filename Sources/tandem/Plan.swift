import ArgumentParser
import Engine
import OPTModel
import Placement
import SystemPackage

/// Which placement is best, and what to expect of it.
struct Plan: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Choose where weights lie and who computes with them, and predict the latency.",
        discussion: """
            From the model's sizes, the memory that is free and what tandem doctor measured of the machine, which is
            measured now where nothing is remembered. Nothing is loaded, but by --compress auto to measure losses.

              tandem plan --model facebook/opt-6.7b
              tandem plan --model facebook/opt-30b --gpu-memory 24GiB --gpu-batch-size 8
              tandem plan --model ./opt-6.7b --compress auto --max-perplexity-loss 2 --perplexity-text text.txt
              tandem doctor --json > machine.json; tandem plan --machine machine.json
            """)

    @Option(help: ArgumentHelp("A published OPT name, or a folder.", valueName: "model"))
    var model = "facebook/opt-6.7b"

    @Option(help: ArgumentHelp("Tokens of each prompt.", valueName: "count"))
    var promptLen = 512

    @Option(help: ArgumentHelp("Tokens to generate for each prompt.", valueName: "count"))
    var genLen = 32

    @Option(
        name: [.customLong("gpu-batch-size"), .customLong("batch-size")],
        help: ArgumentHelp("Prompts at the same time.", valueName: "count"))
    var batchSize = 1

    @OptionGroup var compression: CompressionArguments

    @Option(
        help: ArgumentHelp("The most GPU memory that may be used, such as 24GiB.", valueName: "size"))
    var gpuMemory: MemorySize?

    @Option(
        help: ArgumentHelp("The most CPU memory that may be used, such as 64GiB.", valueName: "size"))
    var cpuMemory: MemorySize?

    @Option(
        help: ArgumentHelp(
            "What tandem doctor --json printed on another machine, to plan for that one.", valueName: "file"))
    var machine: String?

    func validate() throws {
        for (name, value) in [
            ("--prompt-len", promptLen), ("--gen-len", genLen), ("--gpu-batch-size", batchSize),
        ] where value < 1 {
            throw ValidationError("\(name) is \(value); give 1 or more")
        }
    }

    func run() async throws {
        var request = PlanningRequest(
            Workload(batchSize: batchSize, promptLength: promptLen, generationLength: genLen))
        request.gpuMemoryByteCount = gpuMemory?.byteCount
        request.cpuMemoryByteCount = cpuMemory?.byteCount
        request.machineReport = machine.map { FilePath($0) }
        let reference = try ModelReference(
            model: model, path: ModelReference.randomWeightsPath,
            downloadFolders: ModelArguments.downloadFolders)
        var form = CompressionForm(
            try compression.quantization, compressesCache: try compression.compressesCache)
        var choice: CompressionChoice?
        if let automatic = try compression.automatic {
            choice = try await choose(automatic, request)
            if let chosen = choice?.chosen { form = chosen }
        }
        let configuration = try reference.configuration.quantized(
            form.quantization, cache: form.compressesCache)
        let planner = try await request.planner(for: configuration)
        writeToStandardOutput(
            PlanReport(
                plan: try planner.plan(), profile: planner.hardware, model: configuration.name,
                workload: request.workload, form: form, choice: choice
            ).text)
    }

    /// Losses are measured here, steps predicted for the machine that is planned for.
    private func choose(_ automatic: AutomaticCompression, _ request: PlanningRequest) async throws
        -> CompressionChoice
    {
        let weights: ModelReference
        do {
            weights = try ModelReference(model: model, downloadFolders: ModelArguments.downloadFolders)
        } catch let error as EngineError where error.code == .modelNotFound {
            throw EngineError(
                error.code, "--compress auto measures losses with the model itself: \(error.reason)",
                advice: "give the folder of its weights with --model")
        }
        var options = Engine.Options()
        options.gpuMemoryByteCount = gpuMemory?.byteCount
        options.cpuMemoryByteCount = cpuMemory?.byteCount
        return try await CompressionSearch(weights, automatic, options: options).run(
            notice: { writeToStandardError($0 + "\n") }
        ) { try await request.planner(for: $0).plan().prediction.decodeStep.seconds }
    }
}

/// A plan in words.
struct PlanReport {
    let plan: PlacementPlan
    let profile: HardwareProfile
    let model: String
    let workload: Workload
    let form: CompressionForm
    /// How the form was chosen; nil where it was given.
    let choice: CompressionChoice?

    var text: String {
        var lines = ["\(profile.machine.key), measured \(profile.date)"]
        lines.append(
            "\(model), batch \(workload.batchSize), prompt \(workload.promptLength), generate "
                + "\(workload.generationLength)")
        lines.append("")
        if let choice { lines += choice.reportLines + [""] }
        lines += plan.placement.reportLines
        lines.append("")
        if profile.gpu == nil {
            let arguments = ["--device cpu --threads \(plan.threadCount)"] + form.arguments
            lines.append("there is no GPU: \(arguments.joined(separator: " "))")
        } else {
            let request = plan.request
            let arguments =
                [
                    request.weightArguments, request.computationArguments, request.cacheArguments,
                    "--threads \(plan.threadCount)",
                ] + form.arguments
            lines.append(arguments.filter { !$0.isEmpty }.joined(separator: " "))
        }
        lines.append("")
        lines.append(
            "predicted, ms        a token   GPU   PCIe    CPU   disk  joins   waits for   prefill   in all")
        lines.append(Self.line("planned", plan.prediction))
        if let prediction = plan.allStreamed { lines.append(Self.line("all by the GPU", prediction)) }
        if let prediction = plan.allOnCPU { lines.append(Self.line("all by the CPU", prediction)) }
        lines.append(Self.label("floor") + Self.milliseconds(plan.floor.seconds, width: 8))
        return lines.joined(separator: "\n") + "\n"
    }

    private static func line(_ name: String, _ prediction: LatencyPrediction) -> String {
        let step = prediction.decodeStep
        var line = label(name) + milliseconds(step.seconds, width: 8)
        for seconds in [
            step.gpuSeconds, step.pcieSeconds, step.cpuSeconds, step.diskSeconds, step.joinSeconds,
        ] {
            line += milliseconds(seconds, width: 7)
        }
        let resource = step.waitedFor.label
        line += String(repeating: " ", count: max(1, 12 - resource.count)) + resource
        return line + milliseconds(prediction.prefill.seconds, width: 10)
            + milliseconds(prediction.seconds, width: 9)
    }

    private static func label(_ name: String) -> String {
        name + String(repeating: " ", count: max(0, 20 - name.count))
    }

    /// With as many decimals as say something.
    private static func milliseconds(_ seconds: Double, width: Int) -> String {
        let value = seconds * 1e3
        let text = value.text(decimals: value < 10 ? 2 : value < 100 ? 1 : 0)
        return String(repeating: " ", count: max(1, width - text.count)) + text
    }
}

extension StepCost.Resource {
    fileprivate var label: String {
        switch self {
        case .gpu: "GPU"
        case .pcie: "PCIe"
        case .cpu: "CPU"
        case .disk: "disk"
        }
    }
}
