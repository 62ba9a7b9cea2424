import Glibc
import Placement

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
        isFinite ? text(decimals: decimals) : "–"
    }
}
