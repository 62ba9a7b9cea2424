import CUDA
import Synchronization

/// What happened when in a run, on the computing and the copying side: for a breakdown and for a trace.
///
/// Recording costs time: a decode step is launched kernel by kernel instead of as one graph.
public final class Timeline: Sendable {
    /// Who was at work.
    public enum Track: String, Sendable, CaseIterable {
        case compute
        case copy
        case disk
        case cpu
        case host
    }

    /// One piece of work, in seconds since the recording began.
    public struct Span: Sendable {
        public var track: Track
        /// What was done: a layer kind, or a resource.
        public var name: String
        /// Which layer, or nil.
        public var layer: Int?
        public var start: Double
        public var end: Double

        public init(track: Track, name: String, layer: Int? = nil, start: Double, end: Double) {
            self.track = track
            self.name = name
            self.layer = layer
            self.start = start
            self.end = end
        }

        public var seconds: Double { end - start }
    }

    /// A number that changed, at seconds since the recording began.
    public struct Count: Sendable {
        public var name: String
        public var time: Double
        public var value: Int
    }

    private let counted = Mutex<[Count]>([])
    private let finished = Mutex<[Span]>([])
    private let pending = Mutex<[Pending]>([])
    private let origin: ContinuousClock.Instant
    private let originEvent: Event

    private struct Pending {
        var track: Track
        var name: String
        var layer: Int?
        var start: Event
        var end: Event
    }

    /// Begins to record; the events of all streams are timed against `stream`'s present.
    init(on stream: Stream) throws(CUDAError) {
        originEvent = try Event(context: stream.context, isTimed: true)
        try stream.synchronize()
        try originEvent.record(on: stream)
        try originEvent.synchronize()
        origin = .now
    }

    /// Records what `body` puts into a stream.
    func record<Failure: Error>(
        _ track: Track, _ name: String, layer: Int? = nil, on stream: Stream,
        _ body: () throws(Failure) -> Void
    ) throws(Failure) {
        guard let start = try? Event(context: stream.context, isTimed: true),
            let end = try? Event(context: stream.context, isTimed: true)
        else { return try body() }
        try? start.record(on: stream)
        try body()
        try? end.record(on: stream)
        pending.withLock {
            $0.append(Pending(track: track, name: name, layer: layer, start: start, end: end))
        }
    }

    /// Adds what the host did between two moments.
    func add(
        _ track: Track, _ name: String, layer: Int? = nil, from start: ContinuousClock.Instant,
        to end: ContinuousClock.Instant
    ) {
        let span = Span(
            track: track, name: name, layer: layer, start: origin.duration(to: start) / .seconds(1),
            end: origin.duration(to: end) / .seconds(1))
        finished.withLock { $0.append(span) }
    }

    /// Adds a number as it is now.
    func count(_ name: String, _ value: Int) {
        let count = Count(name: name, time: origin.duration(to: .now) / .seconds(1), value: value)
        counted.withLock { $0.append(count) }
    }

    /// The numbers so far, in the order of time.
    public func counts() -> [Count] { counted.withLock { $0 } }

    /// Everything that has ended, in the order of time.
    public func spans() -> [Span] {
        let waiting = pending.withLock { waiting in
            defer { waiting = [] }
            return waiting
        }
        var later: [Pending] = []
        var spans: [Span] = []
        for item in waiting {
            guard (try? item.end.isComplete) == true,
                let start = try? item.start.elapsedMilliseconds(since: originEvent),
                let end = try? item.end.elapsedMilliseconds(since: originEvent)
            else {
                later.append(item)
                continue
            }
            spans.append(
                Span(
                    track: item.track, name: item.name, layer: item.layer, start: start / 1e3, end: end / 1e3)
            )
        }
        pending.withLock { $0 += later }
        return finished.withLock { finished in
            finished += spans
            finished.sort { $0.start < $1.start }
            return finished
        }
    }
}
