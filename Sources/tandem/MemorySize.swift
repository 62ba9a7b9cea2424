import ArgumentParser

/// Bytes as one types them: "24GiB", "8GB", "512MiB", "1.5g" or a plain number of bytes.
struct MemorySize: ExpressibleByArgument, Hashable, CustomStringConvertible {
    let byteCount: Int
    private let text: String

    /// nil where the text is no size, not positive, or more than any memory.
    init?(argument: String) {
        let digits = argument.prefix { $0.isNumber || $0 == "." }
        let unit = argument.dropFirst(digits.count).lowercased()
        guard let number = Double(digits), let factor = Self.factors[unit] else { return nil }
        let byteCount = number * factor
        guard byteCount >= 1, byteCount < 1e18 else { return nil }
        self.byteCount = Int(byteCount)
        text = argument
    }

    var description: String { text }

    /// A letter alone is the binary unit, as memory is sold.
    private static let factors: [String: Double] = {
        var factors: [String: Double] = ["": 1, "b": 1]
        for (index, letter) in ["k", "m", "g", "t"].enumerated() {
            let binary = Double(1 << (10 * (index + 1)))
            factors[letter] = binary
            factors[letter + "ib"] = binary
            factors[letter + "b"] = (0...index).reduce(1.0) { power, _ in power * 1000 }
        }
        return factors
    }()
}
