import Glibc
import Synchronization

/// How far a process has come among the meetings of its group, for those that watch it: all-reduces and the like, in which
/// every process waits for the last one.
///
/// Written by the thread that meets the others.
public final class GroupProgress: Sendable {
    /// The meetings that the process has come to, and in the lowest bit whether it is still waiting in the last one.
    private let word = Atomic<UInt64>(0)

    public init() {}

    public func enterMeeting() { word.wrappingAdd(3, ordering: .relaxed) }
    public func leaveMeeting() { word.wrappingSubtract(1, ordering: .relaxed) }

    /// Begins a step in which GPUs meet by themselves: it counts as a meeting to which the process has come, but not as waiting,
    /// as the step takes as long as it takes.
    public func beginStep() { word.wrappingAdd(2, ordering: .relaxed) }

    /// As it goes over the link.
    var state: State { State(word: word.load(ordering: .relaxed)) }

    /// The processor time that this process has used, in nanoseconds.
    static var processNanoseconds: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    struct State: Equatable {
        var word: UInt64
        var meetingCount: UInt64 { word >> 1 }
        var isWaiting: Bool { word & 1 == 1 }
    }
}
