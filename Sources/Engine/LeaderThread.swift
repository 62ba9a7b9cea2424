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
private final class JobQueue: @unchecked Sendable {  // `jobs` and `isClosed` are guarded by `mutex`
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var jobs: [@Sendable () -> Void] = []
    private var isClosed = false

    init() {
        mutex = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        pthread_cond_destroy(condition)
        mutex.deallocate()
        condition.deallocate()
    }

    func append(_ job: @escaping @Sendable () -> Void) {
        pthread_mutex_lock(mutex)
        jobs.append(job)
        pthread_cond_signal(condition)
        pthread_mutex_unlock(mutex)
    }

    func close() {
        pthread_mutex_lock(mutex)
        isClosed = true
        pthread_cond_signal(condition)
        pthread_mutex_unlock(mutex)
    }

    /// The next job, or nil when the queue is closed and empty.
    func next() -> (@Sendable () -> Void)? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while jobs.isEmpty && !isClosed { pthread_cond_wait(condition, mutex) }
        return jobs.isEmpty ? nil : jobs.removeFirst()
    }
}
