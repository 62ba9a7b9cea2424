import Glibc

/// How work is divided among a pool's workers: equally at first, then by what each of them did in the same time.
///
/// Processors of a shared host are not alike: one whose other half is another guest's does little more than half of the
/// work. Workers that meet are as slow as the slowest, so each gets what lets all of them come at the same time.
///
/// `divide` is the leader's, between runs; `part` and `note` any worker's. Nothing allocates once it is made.
public final class WorkShares: @unchecked Sendable {  // a worker writes its own seconds alone
    /// Where each worker's part begins, of 0 to 1; one more for the end.
    private let bounds: UnsafeMutablePointer<Double>
    /// Each on a cache line of its own.
    private let seconds: UnsafeMutablePointer<Double>
    private var workerCount = 0
    private var moveCount = -1

    private static let secondsStride = 16
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
        seconds = .allocate(capacity: mostWorkers * Self.secondsStride)
        seconds.initialize(repeating: 0, count: mostWorkers * Self.secondsStride)
    }

    deinit {
        bounds.deallocate()
        seconds.deallocate()
    }

    /// Divides the work of the next run by what was noted in the last one; equally, where these are not the workers of the
    /// last one.
    ///
    /// - Parameter moveCount: the pool's; other workers stand behind the same numbers when it has changed.
    public func divide(among count: Int, moveCount: Int) {
        defer { for worker in 0..<count { seconds[worker * Self.secondsStride] = 0 } }
        if count != workerCount || moveCount != self.moveCount {
            (workerCount, self.moveCount) = (count, moveCount)
            for worker in 0...count { bounds[worker] = Double(worker) / Double(count) }
            return
        }
        // A worker's rate is its part by its seconds.
        var sum = 0.0
        var (least, most) = (Double.infinity, 0.0)
        for worker in 0..<count {
            let taken = seconds[worker * Self.secondsStride]
            if taken < Self.leastSeconds { return }
            sum += width(worker) / taken
            (least, most) = (min(least, taken), max(most, taken))
        }
        let gain = most > Self.largeRatio * least ? Self.largeGain : Self.smallGain
        let equal = 1 / Double(count)
        var end = 0.0
        for worker in 0..<count {
            let shown = width(worker) / seconds[worker * Self.secondsStride] / sum
            let wanted = width(worker) + gain * (shown - width(worker))
            let part = min(max(wanted, Self.limits.lowerBound * equal), Self.limits.upperBound * equal)
            // The old begin of the next worker is still needed for its width.
            seconds[worker * Self.secondsStride] = part
            end += part
        }
        var begin = 0.0
        for worker in 0..<count {
            bounds[worker] = begin
            begin += seconds[worker * Self.secondsStride] / end
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

    /// Does a worker's part of the work and notes what it took.
    public func note<Result>(_ worker: Int, _ work: () -> Result) -> Result {
        let start = Self.now
        defer { seconds[worker * Self.secondsStride] += Self.now - start }
        return work()
    }

    /// For tests: as if a worker's part had taken so long.
    func note(_ worker: Int, seconds taken: Double) { seconds[worker * Self.secondsStride] += taken }

    private static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
