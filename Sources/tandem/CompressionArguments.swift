import ArgumentParser
import Collectives
import Engine
import TensorCore

/// In how many bits weights and cache are kept, or that it is to be chosen; shared by the sub-commands.
struct CompressionArguments: ParsableArguments {
    @Option(
        defaultAsFlag: .on, parsing: .next,
        help: "Keep the layers' matrices in fewer bits, wherever they lie (false).")
    var compressWeight: Switch?

    @Option(help: ArgumentHelp("Bits of a compressed weight: 4 or 8. (4)", valueName: "bits"))
    var weightBits: Int?

    @Option(
        defaultAsFlag: .on, parsing: .next,
        help: "Keep the attention cache in 4 bits, wherever it lies (false).")
    var compressCache: Switch?

    @Option(
        help: ArgumentHelp(
            "auto: keep weights and cache in the fastest form that costs no more than --max-perplexity-loss, by the steps "
                + "that are predicted and the losses that are measured with the model itself, once for a model and a text.",
            valueName: "how"))
    var compress: Choice?

    enum Choice: String, ExpressibleByArgument, CaseIterable {
        case auto
    }

    @Option(
        help: ArgumentHelp(
            "How much higher the perplexity may be than in fp16, with --compress auto. (1)",
            valueName: "percent"))
    var maxPerplexityLoss: Double?

    @Option(
        help: ArgumentHelp(
            "The text that --compress auto measures losses on: the first \(AutomaticCompression.windowCount) windows of it, of at "
                + "most \(AutomaticCompression.windowLength) tokens. (the one that the model was last measured on)",
            valueName: "file"))
    var perplexityText: String?

    func validate() throws {
        _ = try (quantization, compressesCache)
        guard compress != nil else {
            for (isGiven, name) in [
                (maxPerplexityLoss != nil, "--max-perplexity-loss"),
                (perplexityText != nil, "--perplexity-text"),
            ] where isGiven {
                throw ValidationError("\(name) is for --compress auto; give that, too, or leave it out")
            }
            return
        }
        for (isGiven, name) in [
            (compressWeight != nil, "--compress-weight"), (weightBits != nil, "--weight-bits"),
            (compressCache != nil, "--compress-cache"),
        ] where isGiven {
            throw ValidationError("--compress auto chooses what \(name) says; leave one of them out")
        }
        if let maxPerplexityLoss, !(0..<1e6 ~= maxPerplexityLoss) {
            throw ValidationError(
                "--max-perplexity-loss is \(maxPerplexityLoss); give a percentage of 0 or more")
        }
    }

    var isAutomatic: Bool { compress != nil }

    /// What is asked to be chosen; nil where it is given.
    var automatic: AutomaticCompression? {
        get throws {
            guard isAutomatic else { return nil }
            var automatic = AutomaticCompression()
            if let maxPerplexityLoss { automatic.maximumLoss = maxPerplexityLoss / 100 }
            automatic.text = try perplexityText.map {
                try TextFile.text(of: TextFile.bytes($0, what: "the text to measure losses on"), name: $0)
            }
            return automatic
        }
    }

    var compressesCache: Bool {
        get throws { try compressCache?.isOn("--compress-cache") ?? false }
    }

    /// How the layers' matrices are kept; nil for as they are.
    var quantization: Quantization? {
        get throws {
            guard try compressWeight?.isOn("--compress-weight") ?? false else {
                if let weightBits {
                    throw ValidationError("--weight-bits \(weightBits) wants --compress-weight beside it")
                }
                return nil
            }
            guard let quantization = Quantization(bits: weightBits ?? 4) else {
                throw ValidationError("--weight-bits is \(weightBits ?? 4); give 4 or 8")
            }
            return quantization
        }
    }

    /// What must be the same on all processes that share a model.
    var agreement: [ControlLink.Agreement] {
        let bits = (try? quantization).flatMap(\.self)?.bits
        return [
            ControlLink.Agreement("--compress-weight", bits.map { "\($0) bits" } ?? "not given"),
            ControlLink.Agreement("--compress-cache", (try? compressesCache) == true ? "true" : "not given"),
        ]
    }
}
