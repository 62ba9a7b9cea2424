/// Numbers as reports and sentences write them.
extension Double {
    /// The number without a needless ".0".
    var plainText: String {
        guard isFinite, self == rounded(), abs(self) < 1e15 else {
            return isNaN ? "not a number" : String(self)
        }
        return String(Int(self))
    }

    /// The number rounded by `rule` to so many digits behind the point.
    func text(decimals: Int, rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero) -> String {
        precondition(isFinite && decimals > 0, "\(self) with \(decimals) decimals")
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = (self * scale).rounded(rule)
        let digits = String(Int(abs(scaled)))
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        return "\(scaled < 0 ? "-" : "")\(padded.dropLast(decimals)).\(padded.suffix(decimals))"
    }
}

extension Int {
    /// The bytes in GiB with two decimals.
    func gibibytes(rounding rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero) -> String {
        (Double(self) / 1_073_741_824).text(decimals: 2, rounding: rule)
    }
}
