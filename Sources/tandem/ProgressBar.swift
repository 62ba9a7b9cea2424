import Glibc
import Synchronization

/// A line on standard error that shows how far the loading is, and how fast.
final class ProgressBar: Sendable {
    private let label: String
    private let isVisible: Bool
    private let start = ContinuousClock.now
    private let lastDraw = Mutex<ContinuousClock.Instant?>(nil)

    static var isTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    init(label: String, isVisible: Bool) {
        self.label = label
        self.isVisible = isVisible
    }

    func update(_ done: Int, of total: Int) {
        guard isVisible else { return }
        lastDraw.withLock { last in
            let now = ContinuousClock.now
            if let last, last.duration(to: now) < .milliseconds(50), done < total { return }
            last = now
            let seconds = max(1e-3, start.duration(to: now) / .seconds(1))
            let width = 30
            let filled = done * width / max(1, total)
            let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled)
            let rate = (Double(done) / seconds / 1e9).formatted(decimals: 2)
            writeToStandardError(
                "\r\(label) \(bar) \((Double(done) / 1e9).formatted(decimals: 2)) of "
                    + "\((Double(total) / 1e9).formatted(decimals: 2)) GB, \(rate) GB/s ")
        }
    }

    /// Clears the line.
    func finish() {
        if isVisible { writeToStandardError("\r\u{1B}[K") }
    }
}
