import OPTModel
import Placement

/// The search for the form that `AutomaticCompression` asks for: predicts all, and measures as few as it must.
public struct CompressionSearch: Sendable {
    private let model: ModelReference
    private let configuration: OPTConfiguration
    private let automatic: AutomaticCompression
    private let options: Engine.Options

    /// - Parameter options: those that the model is to be loaded with; what they say of compression is not looked at.
    /// - Throws: where the model's losses cannot be measured.
    public init(_ model: ModelReference, _ automatic: AutomaticCompression, options: Engine.Options) throws {
        configuration = try model.configuration
        if model.isRandom {
            throw EngineError(
                .invalidOption,
                "--compress auto measures what compression costs, and random weights predict nothing; choose with "
                    + "--compress-weight and --weight-bits")
        }
        if let quantization = configuration.quantization {
            throw EngineError(
                .invalidOption,
                "\(configuration.name) has been quantized to \(quantization.bits) bits, so what that cost cannot be measured; "
                    + "leave --compress auto out, or give the model that it was converted from")
        }
        if options.group != nil { throw AutomaticCompression.refusalOfGroups }
        self.model = model
        self.automatic = automatic
        var options = options
        options.automaticCompression = nil
        self.options = options
    }

    /// Chooses for this machine and the placement that the options ask for.
    ///
    /// - Returns: with what computes the chosen form, and where it lies.
    func run(notice: @Sendable (String) -> Void) async throws
        -> (compression: CompressionChoice, lane: LaneChoice)
    {
        // All are held until one is chosen: another context of a GPU takes no time only as long as there is one.
        var lanes: [CompressionForm: LaneChoice] = [:]
        let choice = try await run(notice: notice) { configuration in
            let form = configuration.compressionForm
            var options = options
            options.use(form)
            let lane = try await LaneChoice(configuration, options, notice: notice)
            lanes[form] = lane
            let profile = try await HardwareProfiler.profileOfMachine(
                offloadFolder: options.offloadFolder, gpuIndex: lane.gpu?.context.device.index ?? 0,
                notice: notice)
            return try lane.stepSeconds(of: configuration, options, on: profile)
        }
        guard let form = choice.chosen, let lane = lanes[form] else {
            preconditionFailure("CompressionSearch: a form that was not predicted")
        }
        return (choice, lane)
    }

    /// Chooses by other predictions.
    ///
    /// - Parameter stepSeconds: what an average decode step of the model in this form takes. What it throws where the model has
    ///   no room or its sizes do not allow the form is why the form drops out; any other error ends the search.
    /// - Returns: a choice that is made.
    public func run(
        notice: @Sendable (String) -> Void = { _ in },
        stepSeconds: (OPTConfiguration) async throws -> Double
    ) async throws -> CompressionChoice {
        var predictions: [(form: CompressionForm, prediction: CompressionChoice.Prediction)] = []
        var refusal: (any Error)?
        for form in CompressionForm.all {
            do {
                let seconds = try await stepSeconds(
                    configuration.quantized(form.quantization, cache: form.compressesCache))
                predictions.append((form, .seconds(seconds)))
            } catch {
                guard let reason = error.refusalOfForm else { throw error }
                predictions.append((form, .impossible(reason)))
                refusal = refusal ?? error
            }
        }
        var choice = CompressionChoice(predictions, maximumLoss: automatic.maximumLoss)
        if let refusal, choice.candidates.allSatisfy({ $0.stepSeconds == nil }) { throw refusal }
        var losses = try CompressionLosses(model, automatic, options: options)
        // What is known already says more in the report, and costs nothing.
        for (form, loss) in losses.remembered where choice.candidates.contains(where: { $0.form == form }) {
            choice.record(loss, of: form)
        }
        while let form = choice.undecided {
            choice.record(try await losses.loss(of: form, notice: notice), of: form)
        }
        guard choice.chosen != nil else {
            throw EngineError(
                .invalidOption,
                ([
                    "\(configuration.name) can be kept in no form with at most \((100 * automatic.maximumLoss).plainText) % more "
                        + "perplexity than in fp16; allow more with --max-perplexity-loss, or choose with --compress-weight "
                        + "and --weight-bits:"
                ] + choice.reportLines.dropFirst()).joined(separator: "\n"))
        }
        return choice
    }
}

extension Engine.Options {
    /// Keeps the model so.
    mutating func use(_ form: CompressionForm) {
        quantization = form.quantization
        compressesCache = form.compressesCache
    }

    /// Leaves to the planner where the model lies, for least latency.
    package mutating func removePlacement() {
        placement = nil
        cacheShares = nil
        placesFor = .latency
        computesCacheOnCPU = false
    }
}
