import Synchronization

/// The time that a process has spent in all-reduces, waiting for the slowest rank included.
///
/// Written by the thread that meets the others.
public final class ReductionClock: Sendable {
    private let nanoseconds = Atomic<UInt64>(0)

    public init() {}

    public var seconds: Double { Double(nanoseconds.load(ordering: .relaxed)) / 1e9 }

    public func add(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        nanoseconds.wrappingAdd(
            UInt64(seconds) &* 1_000_000_000 &+ UInt64(attoseconds / 1_000_000_000), ordering: .relaxed)
    }
}
