import FoundationEssentials
import OPTModel
import Placement
import SystemPackage

/// What forms of a model lose on a text: remembered, or measured with the model itself and then remembered.
struct CompressionLosses {
    private let model: ModelReference
    private let automatic: AutomaticCompression
    private let options: Engine.Options
    private let name: String
    private let file: FilePath
    private var measured: MeasuredLosses

    /// - Parameter options: what is to compute, and with how much memory. The placement is the planner's.
    init(_ model: ModelReference, _ automatic: AutomaticCompression, options: Engine.Options) throws {
        self.model = model
        self.automatic = automatic
        var options = options
        options.removePlacement()
        let configuration = try model.configuration
        options.expectedWorkload = Workload(
            batchSize: 1,
            promptLength: max(1, min(AutomaticCompression.windowLength, configuration.maximumPositions) - 1),
            generationLength: 1)
        self.options = options
        name = configuration.name
        file = automatic.lossesFile ?? AutomaticCompression.rememberedFile
        let digest = try model.contentDigest
        let textDigest = automatic.text.map { ContentDigest($0).description }
        measured =
            MeasuredLosses.remembered(in: file, model: digest, text: textDigest)
            ?? MeasuredLosses(model: digest, text: textDigest ?? "")
    }

    var remembered: [(form: CompressionForm, loss: PerplexityLoss)] {
        measured.losses.map { ($0.form, $0.loss) }
    }

    /// What a form loses against fp16.
    ///
    /// - Parameter notice: called with a sentence before something is measured.
    mutating func loss(of form: CompressionForm, notice: @Sendable (String) -> Void) async throws
        -> PerplexityLoss
    {
        if let loss = measured.losses.first(where: { $0.form == form })?.loss { return loss }
        guard let text = automatic.text else {
            throw EngineError(
                .invalidOption,
                "what \(name) loses with \(form.label) was not measured before; give a text to measure it on with "
                    + "--perplexity-text")
        }
        if measured.reference.isEmpty {
            do {
                measured.reference = try await negativeLogLikelihoods(.fp16, text, notice: notice)
            } catch  where error.isOutOfMemory {
                throw EngineError(
                    .outOfMemory,
                    "losses are measured against \(name) in fp16, which has no room here: \(error). "
                        + "Nothing is measured where --compress-weight and --weight-bits choose")
            }
        }
        let values = try await negativeLogLikelihoods(form, text, notice: notice)
        guard values.count == measured.reference.count else {
            throw EngineError(
                .invalidOption,
                "\(file) holds \(measured.reference.count) tokens of this text, which has \(values.count); delete the file"
            )
        }
        var lost = MeanEstimate()
        for (value, reference) in zip(values, measured.reference) {
            lost.add(Double(value) - Double(reference))
        }
        let loss = PerplexityLoss(lost)
        measured.losses.append(MeasuredLosses.Entry(form: form, loss: loss))
        do {
            try measured.remember(in: file)
        } catch {
            notice("the loss cannot be remembered in \(file), and will be measured again: \(error)")
        }
        return loss
    }

    /// −log p of the tokens of the text's first windows.
    private func negativeLogLikelihoods(
        _ form: CompressionForm, _ text: String, notice: @Sendable (String) -> Void
    ) async throws -> [Float] {
        var options = options
        options.use(form)
        let engine = try await Engine.load(model, options: options, notice: notice)
        let tokens = try engine.tokens(of: text)
        if tokens.count < AutomaticCompression.leastTokens {
            throw EngineError(
                .emptyPrompt,
                "the text to measure losses on comes to \(tokens.count) tokens; give one of "
                    + "\(AutomaticCompression.leastTokens) or more")
        }
        let length = min(
            AutomaticCompression.windowLength, engine.configuration.maximumPositions, tokens.count)
        let stride = max(1, length / 2)
        let windows = try SlidingWindows(
            tokenCount: min(tokens.count, length + (AutomaticCompression.windowCount - 1) * stride),
            length: length, stride: stride, maximumPositions: engine.configuration.maximumPositions)
        notice(
            "measuring the perplexity of \(name) \(form == .fp16 ? "in" : "with") \(form.label) on "
                + "\(windows.tokenCount) tokens, which is done once")
        let scorer = try await engine.makeScorer(windowLength: windows.length)
        var values: [Float] = []
        for pass in windows.passes(rowCount: scorer.rowCapacity) {
            try Task.checkCancellation()
            values = try await scorer.run(pass, of: tokens, into: values) { values, logits, token in
                logits.withUnsafeBufferPointer {
                    values.append(Float(LogNormalizer($0).negativeLogLikelihood(of: token, by: $0)))
                }
            }
        }
        return values
    }
}
