import AllocationCounter
import HostRuntime

/// What each thread of a pool has allocated: tests that run meanwhile are not counted.
public final class AllocationsOfThreads: WorkerTask, @unchecked Sendable {
    /// Each worker writes its own.
    private let counts: UnsafeMutableBufferPointer<Int64>

    public init(_ pool: WorkerPool) {
        counts = .allocate(capacity: pool.workerCount)
        counts.initialize(repeating: 0)
    }

    deinit { counts.deallocate() }

    /// How often the pool's threads allocate while `body` runs on the pool's first one: the least of several times,
    /// as a thread may allocate once more, when it first sleeps, say. What allocates always does so every time.
    public func least(of rounds: Int, _ pool: WorkerPool, _ body: (_ round: Int) throws -> Void) rethrows
        -> Int64
    {
        var least = Int64.max
        for round in 0..<rounds {
            pool.run(self)
            let before = total
            try body(round)
            pool.run(self)
            least = min(least, total - before)
        }
        return least
    }

    private var total: Int64 {
        var total: Int64 = 0
        var index = 0
        while index < counts.count {
            total += counts[index]
            index += 1
        }
        return total
    }

    public func run(worker: Int) { counts[worker] = tandem_allocations_of_this_thread() }
}
