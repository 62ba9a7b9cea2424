import Glibc

/// Keeps the driver's calls that wait for the whole GPU apart from kernels that wait for calls of the driver, and kernels
/// whose blocks wait for each other apart from others of that kind.
///
/// Freeing memory, and at times making it, waits for every kernel, and holds up all other calls meanwhile. A kernel that
/// waits for a copy which has yet to be asked for would then wait until it gives up. One lock for a GPU: its
/// contexts share its streams.
final class WaitingKernels: @unchecked Sendable {  // owns a mutex, which threads may share
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    init() {
        mutex = .allocate(capacity: 1)
        var attributes = pthread_mutexattr_t()
        pthread_mutexattr_init(&attributes)
        // A step that has the lock makes graphs, which needs it too.
        pthread_mutexattr_settype(&attributes, Int32(PTHREAD_MUTEX_RECURSIVE))
        pthread_mutex_init(mutex, &attributes)
        pthread_mutexattr_destroy(&attributes)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    func withLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body()
    }
}
