// The standard library composes canonically, and keeps it for Foundation and for packages that ask.
@_spi(_Unicode) import Swift

/// Unicode's normalization form KC, which Galactica applies to text: `ﬁ` becomes `fi`, `Ａ` becomes `A`.
struct CompatibilityNormalizer: Sendable {
    private let expansions: [Unicode.Scalar: String]

    init() {
        var expansions: [Unicode.Scalar: String] = [:]
        for entry in Self.mappingText.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            let fields = entry.split(separator: ",")
            let targets = fields[fields.count - 1].split(separator: ".").compactMap { UInt32($0, radix: 16) }
            let count = fields.count == 3 ? UInt32(fields[1], radix: 16) ?? 1 : 1
            guard let first = UInt32(fields[0], radix: 16) else { continue }
            for offset in 0..<count {
                guard let scalar = Unicode.Scalar(first + offset) else { continue }
                // Only runs of single scalars have a count.
                var expansion = String.UnicodeScalarView()
                expansion.append(contentsOf: targets.compactMap { Unicode.Scalar($0 + offset) })
                expansions[scalar] = String(expansion)
            }
        }
        self.expansions = expansions
    }

    /// The normalized form of valid UTF-8.
    func normalize(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        if bytes.allSatisfy({ $0 < 0x80 }) { return Array(bytes) }
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var expanded = String.UnicodeScalarView()
        func compose() {
            for scalar in String(expanded)._nfc { result.append(contentsOf: UTF8.encode(scalar) ?? .init()) }
            expanded = String.UnicodeScalarView()
        }
        for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
            if let expansion = expansions[scalar] {
                expanded.append(contentsOf: expansion.unicodeScalars)
            } else if Self.isInReferenceUnicode(scalar) {
                expanded.append(scalar)
            } else {
                compose()
                result.append(contentsOf: UTF8.encode(scalar) ?? .init())
            }
        }
        compose()
        return result
    }

    /// Whether the character is in Unicode 9, the version that Hugging Face's tokenizers normalizes by.
    ///
    /// Newer marks are not put in order, nor composed: to the reference they are characters like any other.
    private static func isInReferenceUnicode(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.isASCII { return true }
        guard let age = scalar.properties.age else { return false }
        return age.major <= 9
    }
}
