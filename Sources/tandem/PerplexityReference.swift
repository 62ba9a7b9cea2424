import Engine
import Glibc
import OPTModel
import Placement

/// The model that another one's predictions are held against, beside which it lies.
struct PerplexityReference {
    let model: ModelReference
    let configuration: OPTConfiguration
    let options: Engine.Options

    /// What stands for the measured model itself, without compression.
    static let uncompressed = "fp16"

    /// - Parameters:
    ///   - name: "fp16", a folder or a name.
    ///   - measured: the model that is measured with `options`.
    ///   - device: what computes the reference; nil for what computes the measured model.
    init(_ name: String, of measured: ModelReference, options: Engine.Options, device: Engine.Processor?)
        throws
    {
        let own = try measured.configuration
        if name == Self.uncompressed {
            if let quantization = own.quantization {
                throw EngineError(
                    .invalidOption,
                    "\(own.name) has been quantized to \(quantization.bits) bits and has no fp16 weights; give --against the "
                        + "folder that it was converted from, or measure that folder with --model and --compress-weight"
                )
            }
            if options.quantization == nil && !options.compressesCache && options.automaticCompression == nil
            {
                throw EngineError(
                    .invalidOption,
                    "\(own.name) would be held against itself, as nothing is compressed; add --compress-weight or "
                        + "--compress-cache, or give --against another model's folder")
            }
            model = measured
        } else {
            model = try ModelReference(model: name, downloadFolders: ModelArguments.downloadFolders)
        }
        configuration = try model.configuration
        var options = options
        options.quantization = nil
        options.compressesCache = false
        options.automaticCompression = nil
        if let device { options.computesOn = device }
        if options.computesOn == .cpu { options.removePlacement() }
        self.options = options
    }

    /// Loads the reference into what other engines have left: where it was asked to lie, or, where that has no room, where
    /// the planner puts it.
    func load(notice: @Sendable (String) -> Void, progress: @escaping @Sendable (Int, Int) -> Void)
        async throws
        -> Engine
    {
        do {
            guard options.placement != nil || options.cacheShares != nil else {
                return try await Engine.load(model, options: options, notice: notice, progress: progress)
            }
            do {
                return try await Engine.load(model, options: options, notice: notice, progress: progress)
            } catch let error as PlacementError where error.code == .outOfMemory {
                notice(
                    "\(label) has no room where it was asked to lie, beside the measured model; it is placed by the planner"
                )
                var options = options
                options.removePlacement()
                return try await Engine.load(model, options: options, notice: notice, progress: progress)
            }
        } catch  where error.isOutOfMemory {
            throw EngineError(
                .outOfMemory,
                "\(label) has no room beside the measured model: \(error). Give the measured model less (--gpu-memory, "
                    + "percentages)"
                    + (options.computesOn == .cpu
                        ? "" : ", or keep the reference in CPU memory with --against-device cpu"))
        }
    }

    /// "opt-1.3b in fp16"
    var label: String { Self.label(of: configuration) }

    static func label(of configuration: OPTConfiguration) -> String {
        let form = configuration.compressionForm
        return "\(configuration.name)\(form == .fp16 ? " in" : ",") \(form.label)"
    }

    /// The tokens of a text are the measured model's.
    static func check(_ engine: Engine, reads text: String, as tokens: [Int32]) throws {
        if engine.tokenizer != nil, try engine.tokens(of: text) != tokens {
            throw EngineError(
                .invalidToken,
                "\(engine.configuration.name) divides the text into other tokens; compare models of one tokenizer"
            )
        }
    }
}
