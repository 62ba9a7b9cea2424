import ArgumentParser
import FoundationEssentials
import OPTModel

/// A recorded run in the trace event format: a row for each track, times in microseconds.
struct TraceFile: Encodable {
    private var traceEvents: [Event]
    private var displayTimeUnit = "ms"

    private struct Event: Encodable {
        var name: String
        /// X for a span, M for the name of a row, C for a number.
        var ph: String
        var ts: Double?
        var dur: Double?
        var pid = 1
        var tid: Int
        var args: [String: String] = [:]
        var numbers: [String: Int]?

        private enum CodingKeys: CodingKey { case name, ph, ts, dur, pid, tid, args }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(name, forKey: .name)
            try container.encode(ph, forKey: .ph)
            try container.encodeIfPresent(ts, forKey: .ts)
            try container.encodeIfPresent(dur, forKey: .dur)
            try container.encode(pid, forKey: .pid)
            try container.encode(tid, forKey: .tid)
            if let numbers {
                try container.encode(numbers, forKey: .args)
            } else {
                try container.encode(args, forKey: .args)
            }
        }
    }

    init(spans: [Timeline.Span], counts: [Timeline.Count] = []) {
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
        for count in counts {
            traceEvents.append(
                Event(name: count.name, ph: "C", ts: count.time * 1e6, tid: 0, numbers: ["": count.value]))
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
