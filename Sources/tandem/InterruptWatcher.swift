import Glibc
import HostRuntime
import Synchronization

/// Turns Ctrl-C into a call: while text is made, the first one lets the program finish what it prints; at any other
/// time, and the second time, it ends the program.
enum InterruptWatcher {
    private static let handler = Mutex<(@Sendable () -> Void)?>(nil)
    private static let count = Atomic<Int>(0)

    static var wasInterrupted: Bool { count.load(ordering: .relaxed) > 0 }

    static func install() {
        sem_init(arrivals, 0, 0)
        // A handler may call next to nothing; it wakes a thread that may call anything.
        signal(SIGINT) { _ in sem_post(arrivals) }
        let thread = startThread {
            while true {
                while sem_wait(arrivals) != 0 {}
                if count.wrappingAdd(1, ordering: .relaxed).newValue > 1 { exit(130) }
                guard let body = handler.withLock(\.self) else { exit(130) }
                body()
            }
        }
        pthread_detach(thread)
    }

    /// Runs `body` on the first Ctrl-C; at once where that has already been.
    static func onInterrupt(_ body: @escaping @Sendable () -> Void) {
        handler.withLock { $0 = body }
        if wasInterrupted { body() }
    }
}

/// Counts the signals that were not looked at yet. Written by the system's own atomic operations only.
private nonisolated(unsafe) let arrivals = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
