/// Numbers as reports and sentences write them.
extension Double {
    /// The number without a needless ".0", and without what subtracting has left behind the eighth decimal.
    package var plainText: String {
        guard isFinite, abs(self) < 1e9 else { return isNaN ? "not a number" : String(self) }
        let value = (self * 1e8).rounded() / 1e8
        return value == value.rounded() ? String(Int(value)) : String(value)
    }

    /// The number rounded by `rule` to so many digits behind the point.
    package func text(decimals: Int, rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero)
        -> String
    {
        precondition(isFinite && decimals >= 0, "\(self) with \(decimals) decimals")
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = (self * scale).rounded(rule)
        guard abs(scaled) < 1e15 else { return String(self) }
        let digits = String(Int(abs(scaled)))
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        let sign = scaled < 0 ? "-" : ""
        return decimals == 0
            ? sign + padded : "\(sign)\(padded.dropLast(decimals)).\(padded.suffix(decimals))"
    }
}

extension Int {
    /// So many bytes with their unit: "12.35 GiB", or "24.4 MiB" where they are fewer than 1 GiB.
    ///
    /// - Parameter decimals: of GiB; MiB have one less.
    package func byteSize(
        decimals: Int = 2, rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero
    ) -> String {
        let unit = ByteUnit(for: self)
        return "\(unit.text(self, decimals: decimals, rounding: rule)) \(unit.rawValue)"
    }
}

/// What numbers of bytes are written in.
enum ByteUnit: String {
    case mebibytes = "MiB"
    case gibibytes = "GiB"

    init(for byteCount: Int) { self = byteCount < 1 << 30 ? .mebibytes : .gibibytes }

    /// The number alone, as `byteSize` has it.
    func text(
        _ byteCount: Int, decimals: Int = 2,
        rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero
    ) -> String {
        switch self {
        case .mebibytes: (Double(byteCount) / 0x1p20).text(decimals: max(0, decimals - 1), rounding: rule)
        case .gibibytes: (Double(byteCount) / 0x1p30).text(decimals: decimals, rounding: rule)
        }
    }
}
