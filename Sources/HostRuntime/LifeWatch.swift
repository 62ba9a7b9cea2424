import Synchronization
import SystemShims

/// Notices a worker that has stopped for good, while others wait for it.
///
/// The workers of a step compute or poll; none of them sleeps. One that sleeps and uses no processor time, look after
/// look, does not come back. One that computes for long uses time, and one that the system does not let run, or that
/// waits for a page, is not asleep: these are waited for. Who waits looks, so a step in which nobody waits pays nothing.
final class LifeWatch: Sendable {
    private struct Signs {
        var nanoseconds: Int64 = -1
        /// Since its time last changed.
        var silence = Duration.zero
    }

    private struct Looks {
        var signs: [Signs]
        var last = ContinuousClock.now
    }

    /// The workers' threads, as the system counts them.
    private let threads: Mutex<[Int32]>
    private let looks: Mutex<Looks>
    /// The workers of the running step; 0 where none is to be watched.
    private let watchedCount = Atomic<Int>(0)
    private let isLost = Atomic<Bool>(false)

    private static let mostSilence = Duration.milliseconds(800)
    /// What lies between two looks counts for no more: whoever stops the whole process for a while stops the one who looks
    /// as well.
    private static let mostSilenceOfLook = Duration.milliseconds(200)
    private static let betweenLooks = Duration.milliseconds(50)

    init(workerCount: Int) {
        threads = Mutex(Array(repeating: 0, count: workerCount))
        looks = Mutex(Looks(signs: Array(repeating: Signs(), count: workerCount)))
    }

    /// Makes the calling thread known as a worker's.
    func register(_ worker: Int) {
        let number = tandem_thread_number()
        threads.withLock { $0[worker] = number }
    }

    /// Begins to watch the first workers, but for the leader, who waits for calls of the system.
    func begin(workerCount: Int) { watchedCount.store(workerCount, ordering: .relaxed) }
    func end() { watchedCount.store(0, ordering: .relaxed) }

    /// Whether a worker has stopped for good.
    var hasLostWorker: Bool { isLost.load(ordering: .relaxed) }

    /// Looks at the workers, if nobody has for a while, and returns whether one has stopped for good.
    func look() -> Bool {
        if hasLostWorker { return true }
        let count = watchedCount.load(ordering: .relaxed)
        if count < 2 { return false }
        let now = ContinuousClock.now
        _ = looks.withLockIfAvailable { looks in
            let passed = looks.last.duration(to: now)
            if passed < Self.betweenLooks { return }
            looks.last = now
            for worker in 1..<count where isLost(worker, &looks.signs[worker], passed) {
                isLost.store(true, ordering: .relaxed)
            }
        }
        return hasLostWorker
    }

    private func isLost(_ worker: Int, _ signs: inout Signs, _ passed: Duration) -> Bool {
        let thread = threads.withLock { $0[worker] }
        let nanoseconds = tandem_thread_nanoseconds(thread)
        if nanoseconds != signs.nanoseconds || thread == 0 {
            signs = Signs(nanoseconds: nanoseconds)
            return false
        }
        signs.silence += min(passed, Self.mostSilenceOfLook)
        return signs.silence >= Self.mostSilence && tandem_is_thread_asleep(thread) != 0
    }
}
