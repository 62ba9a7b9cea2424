import ArgumentParser
import Collectives
import TensorCore

/// In how many bits weights are kept; shared by the sub-commands.
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

    func validate() throws { _ = try (quantization, compressesCache) }

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
