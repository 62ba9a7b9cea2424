import TensorCore

/// What the `config.json` of a folder that `tandem convert` wrote says of its weights.
struct QuantizationEntry: Decodable {
    var version: Int
    var bits: Int
    var group_size: Int

    static let key = "tandem_quantization"
    /// Counts changes of the folder that older programs cannot read.
    static let version = 1

    init(_ quantization: Quantization) {
        version = Self.version
        bits = quantization.bits
        group_size = Quantization.groupSize
    }

    struct Problem: Error {
        var sentence: String
    }

    var quantization: Result<Quantization, Problem> {
        func problem(_ entry: String, _ value: Int, _ expected: String) -> Result<Quantization, Problem> {
            .failure(
                Problem(
                    sentence:
                        "the \(entry) \(value), and this program reads \(expected); convert the model again, "
                        + "with its tandem convert"))
        }
        if version != Self.version { return problem("version", version, "version \(Self.version)") }
        if group_size != Quantization.groupSize {
            return problem("group_size", group_size, "groups of \(Quantization.groupSize)")
        }
        guard let quantization = Quantization(bits: bits) else { return problem("bits", bits, "4 and 8") }
        return .success(quantization)
    }

    /// `"tandem_quantization": {…}`
    var jsonMember: String {
        "\"\(Self.key)\": {\"version\": \(version), \"bits\": \(bits), \"group_size\": \(group_size)}"
    }
}
