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

    /// As it goes over the link.
    var state: State { State(word: word.load(ordering: .relaxed)) }

    struct State: Equatable {
        var word: UInt64
        var meetingCount: UInt64 { word >> 1 }
        var isWaiting: Bool { word & 1 == 1 }
    }
}
