import OPTModel

/// The time of each kind of layer and resource in a recorded run, prefill and decode apart.
struct Breakdown {
    private let spans: [Timeline.Span]

    init(_ spans: [Timeline.Span]) {
        self.spans = spans
    }

    /// A table: milliseconds a step, and the share of the step.
    var lines: [String] {
        let steps = spans.filter { $0.track == .host }
        var lines: [String] = []
        for name in ["prefill", "decode step"] {
            let steps = steps.filter { $0.name == name }
            guard let first = steps.first, let last = steps.last else { continue }
            let total = steps.reduce(0) { $0 + $1.seconds }
            lines.append(
                "\(name): \(Self.milliseconds(total / Double(steps.count))) ms, \(steps.count) times, in each"
            )
            for (label, seconds) in sums(from: first.start, to: last.end) {
                let share = (100 * seconds / total).formatted(decimals: 1)
                lines.append(
                    "  \(label): \(Self.milliseconds(seconds / Double(steps.count))) ms (\(share) %)")
            }
        }
        return lines
    }

    /// The seconds of each name on each track within a period, the longest first; what lies within another span, as
    /// waiting does, counts there no more.
    private func sums(from start: Double, to end: Double) -> [(String, Double)] {
        var sums: [String: Double] = [:]
        for track in Timeline.Track.allCases where track != .host {
            // Spans that are still open, the innermost last.
            var open: [(label: String, end: Double)] = []
            for span in spans where span.track == track && span.start >= start && span.start < end {
                while let last = open.last, last.end <= span.start { open.removeLast() }
                let label = "\(track.rawValue), \(span.name)"
                let seconds = min(span.end, end) - span.start
                sums[label, default: 0] += seconds
                // Reads of the disk run side by side: none of them is within another.
                if track == .disk { continue }
                if let outer = open.last, outer.end >= span.end { sums[outer.label, default: 0] -= seconds }
                open.append((label, span.end))
            }
        }
        return sums.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { ($0.key, $0.value) }
    }

    private static func milliseconds(_ seconds: Double) -> String { (seconds * 1e3).formatted(decimals: 3) }
}
