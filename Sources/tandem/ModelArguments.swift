import ArgumentParser
import Collectives
import Engine
import FoundationEssentials
import OPTModel
import SystemPackage

/// Which model to load and how; shared by the sub-commands.
struct ModelArguments: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Threads that compute; all processors by default.", valueName: "count"))
    var threads: Int?

    @Option(help: "Instruction set of the CPU kernels; the fastest that there is by default.")
    var instructionSet: InstructionSet?

    @Option(
        help: ArgumentHelp(
            "The weights' folder, which holds NAME-np/ or NAME/; _DUMMY_ for random weights.",
            valueName: "folder"))
    var path: String?

    @Option(help: "What computes: cpu, gpu, or auto for the GPU where there is one.")
    var device = Engine.Processor.automatic

    var engineOptions: Engine.Options {
        var options = Engine.Options()
        options.computesOn = device
        options.threadCount = threads
        options.instructionSet = instructionSet
        return options
    }

    func reference(_ model: String, defaultPath: String? = nil) throws -> ModelReference {
        try ModelReference(model: model, path: path ?? defaultPath, downloadFolders: Self.downloadFolders)
    }

    /// Loads the model, with a progress bar where standard error is a terminal.
    func load(
        _ model: String, defaultPath: String? = nil, options: Engine.Options, isQuiet: Bool,
        isVerbose: Bool = false
    ) async throws -> Engine {
        let reference = try reference(model, defaultPath: defaultPath)
        var options = options
        options.testFault = try Self.testFault
        let bar = ProgressBar(label: "loading \(model)", isVisible: !isQuiet && ProgressBar.isTerminal)
        let engine = try await Engine.load(
            reference, options: options, notice: { if !isQuiet { writeToStandardError($0 + "\n") } }
        ) { bar.update($0, of: $1) }
        bar.finish()
        if isVerbose, let report = engine.rankReport { writeToStandardError(report.line + "\n") }
        return engine
    }

    /// Joins the processes that share the model, where there are any.
    ///
    /// - Returns: false where this is not rank 0, and has done its part to the end.
    func join(
        _ processes: GroupArguments, _ model: String, defaultPath: String? = nil,
        placement: PlacementArguments, options: inout Engine.Options
    ) async throws -> Bool {
        guard try processes.hasOthers else { return true }
        if placement.compression.isAutomatic {
            throw ValidationError("\(AutomaticCompression.refusalOfGroups)")
        }
        let reference = try reference(model, defaultPath: defaultPath)
        let agreement = [
            ControlLink.Agreement("--model", model),
            ControlLink.Agreement("a config.json with the digest", try reference.configuration.digest),
            ControlLink.Agreement("weights", reference.isRandom ? "random, --path _DUMMY_" : "of a folder"),
            ControlLink.Agreement("--device", options.computesOn.rawValue),
        ]
        options.group = try processes.join(agreement + placement.agreement)
        guard let group = options.group, !group.isConductor else { return true }
        let engine = try await load(
            model, defaultPath: defaultPath, options: options, isQuiet: true, isVerbose: processes.verbose)
        do {
            try await engine.follow()
        } catch {
            Tandem.leave(with: error)
        }
        return false
    }

    /// What the project's tests let go wrong.
    private static var testFault: TestFault? {
        get throws {
            guard let text = ProcessInfo.processInfo.environment["TANDEM_TEST_FAULT"] else { return nil }
            guard let fault = TestFault(text) else {
                let kinds = TestFault.Kind.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("TANDEM_TEST_FAULT is \(text); give KIND@STEP, KIND one of \(kinds)")
            }
            return fault
        }
    }

    /// Where Hugging Face's own tools keep what they downloaded.
    static var downloadFolders: [FilePath] {
        let environment = ProcessInfo.processInfo.environment
        if let cache = environment["HF_HUB_CACHE"] { return [FilePath(cache)] }
        if let home = environment["HF_HOME"] { return [FilePath(home).appending("hub")] }
        guard let home = environment["HOME"] else { return [] }
        return [FilePath(home).appending(".cache/huggingface/hub")]
    }
}

extension InstructionSet: ExpressibleByArgument {}
extension Engine.Processor: ExpressibleByArgument {}
