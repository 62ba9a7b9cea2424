import Glibc
import HostRuntime
import Synchronization

/// The thread that owns a worker pool: it sets sessions up and leads every decode step, one job after another.
final class LeaderThread: Sendable {
    private let queue = JobQueue()
    private let thread: pthread_t

    init(pool: WorkerPool) {
        let queue = queue
        thread = startThread {
            pool.pinLeader()
            while let job = queue.next() { job() }
        }
    }

    deinit {
        queue.close()
        // The last reference may be dropped by a job, on the thread itself.
        if pthread_equal(pthread_self(), thread) != 0 {
            pthread_detach(thread)
        } else {
            pthread_join(thread, nil)
        }
    }

    /// Runs `job` after the jobs before it.
    func enqueue(_ job: @escaping @Sendable () -> Void) {
        queue.append(job)
    }

    /// Runs `body` on the thread and returns what it returns.
    func perform<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await withCheckedThrowingContinuation { continuation in
            enqueue { continuation.resume(with: Swift.Result { try body() }) }
        }
    }
}

/// Jobs in the order they came, for one thread that sleeps while there are none.
private final class JobQueue: @unchecked Sendable {  // `jobs` and `isClosed` are guarded by `monitor`
    private let monitor = Monitor()
    private var jobs: [@Sendable () -> Void] = []
    private var isClosed = false

    func append(_ job: @escaping @Sendable () -> Void) {
        monitor.withLock {
            jobs.append(job)
            monitor.broadcast()
        }
    }

    func close() {
        monitor.withLock {
            isClosed = true
            monitor.broadcast()
        }
    }

    /// The next job, or nil when the queue is closed and empty.
    func next() -> (@Sendable () -> Void)? {
        monitor.withLock {
            while jobs.isEmpty && !isClosed { monitor.wait() }
            return jobs.isEmpty ? nil : jobs.removeFirst()
        }
    }
}
