import Glibc

/// A lock whose holders can sleep until another has changed what it guards.
public final class Monitor: @unchecked Sendable {  // owns a mutex and a condition, which threads may share
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let changed: UnsafeMutablePointer<pthread_cond_t>

    public init() {
        mutex = .allocate(capacity: 1)
        changed = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(changed, nil)
    }

    deinit {
        pthread_cond_destroy(changed)
        pthread_mutex_destroy(mutex)
        changed.deallocate()
        mutex.deallocate()
    }

    /// Runs `body` while no other thread is inside.
    public func withLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure)
        -> Result
    {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body()
    }

    /// Lets others in and sleeps until one of them calls `broadcast`, or for no reason; only within `withLock`.
    public func wait() { pthread_cond_wait(changed, mutex) }

    /// Wakes all that wait.
    public func broadcast() { pthread_cond_broadcast(changed) }
}
