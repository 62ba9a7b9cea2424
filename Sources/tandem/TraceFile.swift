import ArgumentParser
import FoundationEssentials
import OPTModel

/// A recorded run in the trace event format: a row for each track, times in microseconds.
struct TraceFile: Encodable {
    private var traceEvents: [Event]
    private var displayTimeUnit = "ms"

    private struct Event: Encodable {
        var name: String
        /// X for a span, M for the name of a row.
        var ph: String
        var ts: Double?
        var dur: Double?
        var pid = 1
        var tid: Int
        var args: [String: String]
    }

    init(spans: [Timeline.Span]) {
        let tracks = Timeline.Track.allCases
        traceEvents = tracks.enumerated().map { index, track in
            Event(name: "thread_name", ph: "M", tid: index, args: ["name": track.rawValue])
        }
        for span in spans {
            traceEvents.append(
                Event(
                    name: span.name, ph: "X", ts: span.start * 1e6, dur: span.seconds * 1e6,
                    tid: tracks.firstIndex(of: span.track)!,
                    args: span.layer.map { ["layer": String($0)] } ?? [:]))
        }
    }

    /// Writes the file, or says why it cannot be written.
    func write(to path: String) throws {
        do {
            try JSONEncoder().encode(self).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw ValidationError(
                "the trace \(path) cannot be written: \(error); give --trace a file that can")
        }
    }
}
