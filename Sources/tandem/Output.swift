import Glibc

/// Writes all of `text`; a closed pipe ends the program, as it does others.
func writeToStandardOutput(_ text: String) { write(text, to: STDOUT_FILENO) }

func writeToStandardError(_ text: String) { write(text, to: STDERR_FILENO) }

private func write(_ text: String, to descriptor: Int32) {
    var text = text
    text.withUTF8 { bytes in
        var offset = 0
        while offset < bytes.count {
            let count = Glibc.write(descriptor, bytes.baseAddress! + offset, bytes.count - offset)
            if count < 0 {
                if errno == EINTR { continue }
                return
            }
            offset += count
        }
    }
}

extension Double {
    /// The number with so many digits behind the point.
    func formatted(decimals: Int) -> String {
        guard isFinite else { return "–" }
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = (self * scale).rounded()
        guard abs(scaled) < 1e15 else { return String(self) }
        let digits = String(abs(Int(scaled)))
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        let whole = padded.dropLast(decimals)
        let sign = scaled < 0 ? "-" : ""
        return decimals == 0 ? sign + padded : "\(sign)\(whole).\(padded.suffix(decimals))"
    }
}
