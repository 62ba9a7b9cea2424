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
}
