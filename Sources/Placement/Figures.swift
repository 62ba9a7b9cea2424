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
    /// The bytes in GiB with two decimals.
    package func gibibytes(rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero) -> String {
        (Double(self) / 1_073_741_824).text(decimals: 2, rounding: rule)
    }
}
