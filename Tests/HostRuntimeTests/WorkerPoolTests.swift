import Foundation
import Synchronization
import SystemShims
import Testing

@testable import HostRuntime

struct WorkerPoolTests {
    /// Counts how often each worker ran, and lets them meet in between.
    final class CountingTask: WorkerTask {
        let pool: WorkerPool
        let runs: [Box]
        let met = Atomic<Int>(0)
        let sawAll = Atomic<Bool>(true)

        final class Box: Sendable {
            let count = Atomic<Int>(0)
            var runs: Int { count.load(ordering: .relaxed) }
        }

        init(_ pool: WorkerPool) {
            self.pool = pool
            runs = (0..<pool.workerCount).map { _ in Box() }
        }

        func run(worker: Int) {
            runs[worker].count.wrappingAdd(1, ordering: .relaxed)
            met.wrappingAdd(1, ordering: .relaxed)
            pool.barrier.wait()
            if met.load(ordering: .relaxed) != pool.activeCount { sawAll.store(false, ordering: .relaxed) }
            pool.barrier.wait()
            met.store(0, ordering: .relaxed)
        }
    }

    @Test(arguments: [1, 2, 3, 7])
    func `every worker does its part of every task once`(workerCount: Int) {
        let pool = WorkerPool(workerCount: workerCount)
        let task = CountingTask(pool)
        for _ in 0..<200 { pool.run(task) }
        #expect(task.runs.map(\.runs) == Array(repeating: 200, count: workerCount))
        let sawAll = task.sawAll.load(ordering: .relaxed)
        #expect(sawAll, "a worker left the barrier before another had come")
    }

    /// The first workers alone, as many as come, those left out asleep or not.
    @Test func `only the first workers do a task that is for them alone`() async throws {
        let pool = WorkerPool(workerCount: 5)
        let task = CountingTask(pool)
        var expected = Array(repeating: 0, count: 5)
        for round in 0..<300 {
            let count = round % 7 == 6 ? 5 : Int.random(in: 1...5)
            pool.run(task, on: count)
            for worker in 0..<count { expected[worker] += 1 }
            if round % 50 == 49 { try await Task.sleep(for: .milliseconds(20)) }
        }
        #expect(task.runs.map(\.runs) == expected)
        let sawAll = task.sawAll.load(ordering: .relaxed)
        #expect(sawAll, "a worker left the barrier before another had come")
    }

    /// Lanes own the pool that they run on.
    @Test func `a task that owns its pool is let go with it`() {
        weak var kept: CountingTask?
        weak var pool: WorkerPool?
        do {
            let task = CountingTask(WorkerPool(workerCount: 3))
            for _ in 0..<50 { task.pool.run(task) }
            (kept, pool) = (task, task.pool)
        }
        #expect(kept == nil && pool == nil)
    }

    @Test func `workers that have gone to sleep wake up for the next task`() async throws {
        let pool = WorkerPool(workerCount: 2)
        let task = CountingTask(pool)
        pool.run(task)
        try await Task.sleep(for: .milliseconds(200))
        pool.run(task)
        #expect(task.runs[1].runs == 2)
    }

    /// One of the workers does something else before it meets the others.
    final class DelayedTask: WorkerTask {
        let pool: WorkerPool
        let delay: @Sendable () -> Void

        init(_ pool: WorkerPool, delay: @escaping @Sendable () -> Void) {
            (self.pool, self.delay) = (pool, delay)
        }

        func run(worker: Int) {
            if worker == 1 { delay() }
            pool.barrier.wait()
        }
    }

    @Test
    func `a worker that stops for good is noticed within two seconds, and nobody waits for it any more`() {
        // More than there are processors: none is left out because others use its processor.
        var pool = WorkerPool(workerCount: WorkerPool.availableProcessorCount + 1)
        var duration = Duration.zero
        // Where other programs take the processors it gets two more tries.
        for attempt in 0..<3 where attempt == 0 || duration >= .seconds(2) {
            if attempt > 0 { pool = WorkerPool(workerCount: pool.workerCount) }
            let start = ContinuousClock.now
            pool.runUndisturbed(DelayedTask(pool) { while true { sleep(1000) } })
            duration = start.duration(to: .now)
        }
        #expect(duration < .seconds(2))
        #expect(pool.hasLostWorker)
        // The leader does the rest alone.
        let task = CountingTask(pool)
        pool.run(task)
        #expect(task.runs[0].runs == 1 && task.runs[1].runs == 0)
    }

    @Test func `a worker that is out for a while, or computes for long, is waited for`() {
        let pool = WorkerPool(workerCount: WorkerPool.availableProcessorCount + 1)
        let start = ContinuousClock.now
        pool.runUndisturbed(DelayedTask(pool) { usleep(300_000) })
        #expect(!pool.hasLostWorker)
        pool.runUndisturbed(
            DelayedTask(pool) {
                let end = ContinuousClock.now + .seconds(1.2)
                while ContinuousClock.now < end {}
            })
        #expect(!pool.hasLostWorker)
        #expect(start.duration(to: .now) > .seconds(1.5))
    }

    @Test(arguments: [0, 1, 15, 16, 17, 1000, 4096], [1, 16, 64])
    func `shares cover everything once, in units`(count: Int, multiple: Int) {
        for workerCount in [1, 2, 3, 16] {
            var next = 0
            for worker in 0..<workerCount {
                let part = share(of: count, worker: worker, of: workerCount, multiple: multiple)
                #expect(part.lowerBound == next)
                #expect(part.upperBound == count || part.upperBound % multiple == 0)
                next = part.upperBound
            }
            #expect(next == count)
        }
    }
}

struct HostBufferTests {
    @Test(arguments: [0, 1, 4096, 4097, 5 << 20])
    func `a buffer is zero, writable to its last byte and aligned to huge pages where it holds one`(
        byteCount: Int
    ) throws {
        let buffer = try HostBuffer(byteCount: byteCount)
        let bytes = UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: byteCount)
        #expect(bytes.allSatisfy { $0 == 0 })
        for index in bytes.indices { bytes[index] = 1 }
        if byteCount >= 2 << 20 { #expect(Int(bitPattern: buffer.baseAddress) % (2 << 20) == 0) }
    }

    @Test func `memory that the system does not have is an error that says how much`() {
        #expect {
            _ = try HostBuffer(byteCount: 1 << 60)
        } throws: {
            "\($0)".contains("\(1 << 60) bytes")
        }
    }

    @Test
    func `a thread that is pinned, and those that it starts, still see all of the process's processors`() {
        final class Counts: @unchecked Sendable { var seen: [Int] = [] }
        let counts = Counts()
        let expected = WorkerPool.availableProcessorCount
        let pinned = startThread {
            tandem_pin_current_thread(0)
            counts.seen.append(WorkerPool.availableProcessorCount)
            let child = startThread { counts.seen.append(WorkerPool.availableProcessorCount) }
            pthread_join(child, nil)
        }
        pthread_join(pinned, nil)
        #expect(counts.seen == [expected, expected])
    }

    @Test func `a thread that lends itself to a run stays where the system puts it`() {
        final class Places: @unchecked Sendable {
            var seen: [String] = []
            /// Adds the processors that the calling thread may use, such as "0-3,8".
            func look() {
                let status = try? String(contentsOfFile: "/proc/thread-self/status", encoding: .utf8)
                let line = status?.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }
                seen.append(String(line?.split(separator: "\t").last ?? "unknown"))
            }
        }
        let places = Places()
        let leader = startThread {
            let pool = WorkerPool()
            places.look()
            pool.forEachWorker { _ in }
            places.look()
            pool.pinLeader()
            pool.forEachWorker { _ in }
            places.look()
        }
        pthread_join(leader, nil)
        #expect(places.seen[0] == places.seen[1])
        #expect(Int(places.seen[2]) != nil, "\(places.seen)")
    }
}
