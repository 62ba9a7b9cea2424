import Collectives
import Engine
import Glibc
import OPTModel
import Synchronization

/// The group that this process belongs to, for the ways out of the program.
enum CurrentGroup {
    private static let group = Mutex<ProcessGroup?>(nil)

    /// When a launcher began to end this process, in nanoseconds of the monotonic clock; 0 where none did.
    private static let endRequest = Atomic<UInt64>(0)
    /// The others' ends that come later are the launcher's doing, and no news.
    private static let newsSeconds = 0.6

    /// This process ends because of another.
    private static let isEnding = Atomic<Bool>(false)

    static var exists: Bool { group.withLock { $0 != nil } }

    static func set(_ new: ProcessGroup) {
        group.withLock { $0 = new }
        // A launcher ends all ranks with the first that has failed: who knows why must still be able to say it.
        signal(SIGTERM) { _ in
            CurrentGroup.noteEndRequest()
            alarm(2)
        }
        // Rank 0 finishes its step and says so.
        if !new.isConductor { signal(SIGINT, SIG_IGN) }
    }

    /// The orderly end.
    static func end() { group.withLock { $0.take() }?.end() }

    /// Tells the others that rank 0 ends at once, as it should.
    static func endAtOnce() { group.withLock { $0.take() }?.leave() }

    /// Ends this process because of another.
    @Sendable static func end(after failure: ControlLink.Failure) {
        isEnding.store(true, ordering: .relaxed)
        let request = endRequest.load(ordering: .relaxed)
        let isNews = request == 0 || Double(now &- request) < newsSeconds * 1e9
        if failure.speaks && isNews { writeToStandardError("Error: \(failure.sentence)\n") }
        // A launcher ends all ranks with the first, and the one that speaks may see the failure a little later.
        if !failure.speaks { usleep(1_500_000) }
        _exit(EXIT_FAILURE)
    }

    /// Called by handlers of signals.
    static func noteEndRequest() {
        _ = endRequest.compareExchange(expected: 0, desired: now, ordering: .relaxed)
    }

    private static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// Ends this process's part in the group because of an error of its own, which `say` prints, unless another rank says it.
    static func leave(with error: any Error, _ sentence: String, say: () -> Void) {
        if let error = error as? CollectiveError, error.isSaidElsewhere {
            // Not before it is said: a launcher ends all ranks with the first.
            sleep(2)
            _exit(EXIT_FAILURE)
        }
        guard let group = group.withLock(\.self) else { return say() }
        // Where another rank is gone the link soon knows more, and ends this one.
        let code = (error as? CollectiveError)?.code
        if (error as? ModelError)?.code == .group || code == .lostRank || code == .library { sleep(2) }
        // What goes wrong on all ranks rank 0 says.
        if !group.isConductor { usleep(500_000) }
        while isEnding.load(ordering: .relaxed) { sleep(1) }
        say()
        group.fail(sentence)
    }
}
