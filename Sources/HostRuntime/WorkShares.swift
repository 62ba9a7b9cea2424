import Glibc
import Synchronization

/// How work is divided among a pool's workers: equally at first, then by what each of them did in the same time.
///
/// Processors of a shared host are not alike: one whose other half is another guest's does little more than half of the
/// work. Workers that meet are as slow as the slowest, so each gets what lets all of them come at the same time. Nor is a
/// processor the same from one millisecond to the next. So only most of the work is divided beforehand; the rest is taken,
/// in ever smaller runs, by whoever has done his part.
///
/// `divide` is the leader's, between runs; `part` and `work` any worker's. Nothing allocates once it is made.
public final class WorkShares: @unchecked Sendable {  // a worker writes its own station alone
    /// Where each worker's part begins, of 0 to 1; one more for the end.
    private let bounds: UnsafeMutablePointer<Double>
    private let stations: UnsafeMutablePointer<Station>
    private var workerCount = 0
    private var moveCount = -1
    /// The units that are taken of what is left of the work, in phases of even and of odd number.
    private let evenTaken = Claim()
    private let oddTaken = Claim()

    /// A worker's own, on cache lines of its own.
    private struct Station {
        /// Of its parts in this run.
        var seconds = 0.0
        /// The phases that it has begun.
        var phase = 0
        private let padding: (SIMD8<Int64>, SIMD4<Int64>, SIMD2<Int64>) = (.zero, .zero, .zero)
    }

    /// On a cache line of its own.
    private final class Claim: Sendable {
        let count = Atomic<Int>(0)
        private let padding: (SIMD16<Int64>, SIMD16<Int64>) = (.zero, .zero)
    }

    /// The columns or inputs of a product that are not divided: as many as the kernels read side by side.
    public static let productUnit = 8
    /// Of the work, what is divided beforehand.
    private static let dividedShare = 0.75
    /// Of the way to what the last run shows, where workers came at nearly the same time, and where they did not.
    private static let smallGain = 0.4
    private static let largeGain = 0.9
    /// The longest time by the shortest that is more than what runs vary by.
    private static let largeRatio = 1.3
    /// No worker gets less or more than so many equal shares.
    private static let limits = 0.4...1.6
    /// A run that is shorter shows nothing.
    private static let leastSeconds = 0.0005

    public init(mostWorkers: Int) {
        bounds = .allocate(capacity: mostWorkers + 1)
        bounds.initialize(repeating: 0, count: mostWorkers + 1)
        stations = .allocate(capacity: mostWorkers)
        stations.initialize(repeating: Station(), count: mostWorkers)
    }

    deinit {
        bounds.deallocate()
        stations.deallocate()
    }

    /// Divides the work of the next run by what was noted in the last one; equally, where these are not the workers of the
    /// last one.
    ///
    /// - Parameter moveCount: the pool's; other workers stand behind the same numbers when it has changed.
    public func divide(among count: Int, moveCount: Int) {
        defer { for worker in 0..<count { stations[worker] = Station() } }
        evenTaken.count.store(0, ordering: .relaxed)
        oddTaken.count.store(0, ordering: .relaxed)
        if count != workerCount || moveCount != self.moveCount {
            (workerCount, self.moveCount) = (count, moveCount)
            for worker in 0...count { bounds[worker] = Double(worker) / Double(count) }
            return
        }
        // A worker's rate is its part by its seconds.
        var sum = 0.0
        var (least, most) = (Double.infinity, 0.0)
        for worker in 0..<count {
            let taken = stations[worker].seconds
            if taken < Self.leastSeconds { return }
            sum += width(worker) / taken
            (least, most) = (min(least, taken), max(most, taken))
        }
        let gain = most > Self.largeRatio * least ? Self.largeGain : Self.smallGain
        let equal = 1 / Double(count)
        var end = 0.0
        for worker in 0..<count {
            let shown = width(worker) / stations[worker].seconds / sum
            let wanted = width(worker) + gain * (shown - width(worker))
            let part = min(max(wanted, Self.limits.lowerBound * equal), Self.limits.upperBound * equal)
            // The old begin of the next worker is still needed for its width.
            stations[worker].seconds = part
            end += part
        }
        var begin = 0.0
        for worker in 0..<count {
            bounds[worker] = begin
            begin += stations[worker].seconds / end
        }
        bounds[count] = 1
    }

    private func width(_ worker: Int) -> Double { bounds[worker + 1] - bounds[worker] }

    /// The part of `0 ..< count` that falls to `worker`, in units of `multiple` (the last unit may be smaller).
    public func part(of count: Int, worker: Int, multiple: Int) -> Range<Int> {
        let units = Double((count + multiple - 1) / multiple)
        let lower = Int((bounds[worker] * units).rounded()) * multiple
        let upper = Int((bounds[worker + 1] * units).rounded()) * multiple
        return min(lower, count)..<min(upper, count)
    }

    /// Does a worker's part of a phase's work, `0 ..< count` in units of `multiple`, then of the rest what nobody else has
    /// taken. All workers call it for the same phases in the same order, and meet between two of them.
    ///
    /// - Parameter body: called first with the worker's own part, which may be empty, then with further runs.
    public func work(
        on count: Int, worker: Int, multiple: Int, _ body: (_ run: Range<Int>, _ isFirst: Bool) -> Void
    ) {
        let phase = stations[worker].phase
        stations[worker].phase += 1
        let taken = phase % 2 == 0 ? evenTaken : oddTaken
        // The other one is the next phase's. Nobody uses it: all have left the phase in front and none has begun the next.
        (phase % 2 == 0 ? oddTaken : evenTaken).count.store(0, ordering: .relaxed)
        let units = (count + multiple - 1) / multiple
        let divided = Int((Self.dividedShare * Double(units)).rounded(.down))
        func run(_ units: Range<Int>) -> Range<Int> {
            min(units.lowerBound * multiple, count)..<min(units.upperBound * multiple, count)
        }
        let start = Self.now
        let lower = Int((bounds[worker] * Double(divided)).rounded())
        let upper = Int((bounds[worker + 1] * Double(divided)).rounded())
        body(run(lower..<upper), true)
        stations[worker].seconds += Self.now - start
        let rest = units - divided
        var first = taken.count.load(ordering: .relaxed)
        while first < rest {
            // Ever smaller, so that all come at the same time.
            let next = first + max(1, (rest - first) / (2 * workerCount))
            let exchange = taken.count.compareExchange(expected: first, desired: next, ordering: .relaxed)
            if exchange.exchanged {
                body(run(divided + first..<divided + next), false)
                first = taken.count.load(ordering: .relaxed)
            } else {
                first = exchange.original
            }
        }
    }

    /// For tests: as if a worker's part had taken so long.
    func note(_ worker: Int, seconds taken: Double) { stations[worker].seconds += taken }

    private static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
