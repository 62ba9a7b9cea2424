import Glibc
import HostRuntime
import Synchronization

/// Turns Ctrl-C into a call: while text is made, the first one lets the program finish its step and what it prints, if
/// that does not take long; at any other time, and the second time, it ends the program.
enum InterruptWatcher {
    private static let handler = Mutex<(@Sendable () -> Void)?>(nil)
    private static let lastWords = Mutex<(@Sendable () -> Void)?>(nil)
    /// How long the program may go on.
    private static let graceSeconds = 1.2
    private static let count = Atomic<Int>(0)

    static var wasInterrupted: Bool { count.load(ordering: .relaxed) > 0 }

    static func install() {
        sem_init(arrivals, 0, 0)
        // A handler may call next to nothing; it wakes a thread that may call anything.
        let handle: @convention(c) (Int32) -> Void = { _ in
            if InterruptWatcher.count.wrappingAdd(1, ordering: .relaxed).newValue > 1 { _exit(130) }
            sem_post(arrivals)
        }
        signal(SIGINT, handle)
        // A launcher that gets Ctrl-C hands it on like this.
        if CurrentGroup.exists { signal(SIGTERM, handle) }
        let thread = startThread {
            while sem_wait(arrivals) != 0 {}
            guard let body = handler.withLock(\.self) else { end() }
            body()
            usleep(UInt32(graceSeconds * 1e6))
            leaveStep()
        }
        pthread_detach(thread)
    }

    /// Runs `body` on the first Ctrl-C; at once where that has already been.
    static func onInterrupt(_ body: @escaping @Sendable () -> Void) {
        handler.withLock { $0 = body }
        if wasInterrupted { body() }
    }

    /// Lets Ctrl-C end the program at once from now on.
    static func stopWaiting() { handler.withLock { $0 = nil } }

    /// Runs `body`, on another thread, where the program is to end although its step does not.
    static func beforeLeavingStep(_ body: @escaping @Sendable () -> Void) { lastWords.withLock { $0 = body } }

    /// Ends the program as Ctrl-C does, at once: what is at work, on the GPU too, ends with it, and nobody waits for that.
    static func end() -> Never {
        CurrentGroup.endAtOnce()
        _exit(130)
    }

    /// Says what has been done so far, and ends.
    private static func leaveStep() -> Never {
        // Whoever reads the output may have stopped to.
        signal(SIGALRM) { _ in _exit(130) }
        var limit = itimerval(it_interval: timeval(), it_value: timeval(tv_sec: 0, tv_usec: 500_000))
        setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &limit, nil)
        lastWords.withLock(\.self)?()
        writeToStandardError(
            "stopped in the middle of a step, which did not end within \(graceSeconds) s of Ctrl-C\n")
        end()
    }
}

/// Counts the signals that were not looked at yet. Written by the system's own atomic operations only.
private nonisolated(unsafe) let arrivals = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
