import Glibc
import Testing

@testable import HostRuntime

struct WorkSharesTests {
    private func parts(_ shares: WorkShares, _ workers: Int, of count: Int, multiple: Int = 1) -> [Int] {
        var next = 0
        return (0..<workers).map { worker in
            let part = shares.part(of: count, worker: worker, multiple: multiple)
            #expect(part.lowerBound == next && (part.upperBound % multiple == 0 || part.upperBound == count))
            next = part.upperBound
            if worker == workers - 1 { #expect(next == count) }
            return part.count
        }
    }

    @Test(arguments: [1, 3, 14]) func `work is divided equally at first, all of it`(workers: Int) {
        let shares = WorkShares(mostWorkers: 16)
        shares.divide(among: workers, moveCount: 0)
        for (count, multiple) in [(0, 16), (5, 16), (7680, 16), (1001, 1), (50272, 64)] {
            let parts = parts(shares, workers, of: count, multiple: multiple)
            #expect(parts.max()! - parts.min()! <= 2 * multiple)
        }
    }

    @Test func `slow workers get as much as lets all of them end at the same time`() {
        let rates = [1.0, 1, 0.6, 1, 1, 1.1, 1, 0.8]
        let shares = WorkShares(mostWorkers: 8)
        for _ in 0..<12 {
            shares.divide(among: 8, moveCount: 0)
            for worker in 0..<8 {
                let part = shares.part(of: 80_000, worker: worker, multiple: 16).count
                shares.note(worker, seconds: Double(part) / 80_000 / rates[worker] * 0.5)
            }
        }
        let seconds = zip(parts(shares, 8, of: 80_000, multiple: 16), rates).map { Double($0) / $1 }
        #expect(seconds.max()! / seconds.min()! < 1.02)
        // Others behind the same numbers, and runs that show nothing.
        shares.divide(among: 8, moveCount: 1)
        #expect(Set(parts(shares, 8, of: 8000)) == [1000])
        shares.divide(among: 8, moveCount: 1)
        #expect(Set(parts(shares, 8, of: 8000)) == [1000])
    }

    @Test func `one bad run takes no worker's part away`() {
        let shares = WorkShares(mostWorkers: 4)
        for round in 0..<20 {
            shares.divide(among: 4, moveCount: 0)
            for worker in 0..<4 { shares.note(worker, seconds: worker == 2 && round > 0 ? 50 : 0.01) }
        }
        shares.divide(among: 4, moveCount: 0)
        #expect(parts(shares, 4, of: 4000)[2] > 300)
    }

    @Test(arguments: [1, 2, 5]) func `every unit of every phase is done once, whoever does it`(workers: Int) {
        /// Each worker adds to the units that it is given, which no two may be given.
        final class Phases: WorkerTask, @unchecked Sendable {
            static let counts = [0, 1, 15, 16, 17, 400, 1001, 7680]
            let shares: WorkShares
            let barrier: SpinBarrier
            let done: [UnsafeMutablePointer<Int32>]
            let firstCounts: UnsafeMutablePointer<Int>

            init(_ shares: WorkShares, _ barrier: SpinBarrier, workers: Int) {
                self.shares = shares
                self.barrier = barrier
                done = Self.counts.map {
                    let units = UnsafeMutablePointer<Int32>.allocate(capacity: $0 + 1)
                    units.initialize(repeating: 0, count: $0 + 1)
                    return units
                }
                firstCounts = .allocate(capacity: workers)
                firstCounts.initialize(repeating: 0, count: workers)
            }

            func run(worker: Int) {
                for (phase, count) in Self.counts.enumerated() {
                    shares.work(on: count, worker: worker, multiple: 16) { run, isFirst in
                        firstCounts[worker] += isFirst ? 1 : 0
                        for unit in run { done[phase][unit] += 1 }
                        // One of them is slow: the others take what it leaves.
                        if worker == 0 { usleep(50) }
                    }
                    barrier.wait()
                }
            }
        }
        let pool = WorkerPool(workerCount: workers)
        let shares = WorkShares(mostWorkers: workers)
        let phases = Phases(shares, pool.barrier, workers: workers)
        let rounds = 20
        for _ in 0..<rounds {
            shares.divide(among: workers, moveCount: 0)
            pool.run(phases)
        }
        for (units, count) in zip(phases.done, Phases.counts) {
            #expect((0..<count).allSatisfy { units[$0] == Int32(rounds) })
        }
        #expect((0..<workers).allSatisfy { phases.firstCounts[$0] == rounds * Phases.counts.count })
    }
}
