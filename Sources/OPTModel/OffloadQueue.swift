import Glibc
import HostRuntime

/// Reads and writes ranges of an offload file in the order in which they were asked for, on several threads beside each
/// other: disks serve several requests faster than one.
///
/// A job ends even if a transfer of it fails, so that nobody waits for ever.
final class OffloadQueue: @unchecked Sendable {  // what the threads share is guarded by `monitor`
    /// Aligned bytes at an aligned place of the file. The memory must stay until the job has ended.
    struct Transfer {
        enum Direction {
            case read, write
        }

        var direction: Direction
        var fileOffset: Int
        var bytes: UnsafeMutableRawBufferPointer
    }

    /// Transfers that end together.
    private final class Job {
        let transfers: [Transfer]
        let whenDone: @Sendable () -> Void
        var begunCount = 0
        var endedCount = 0

        init(_ transfers: [Transfer], _ whenDone: @escaping @Sendable () -> Void) {
            self.transfers = transfers
            self.whenDone = whenDone
        }
    }

    private let file: OffloadFile
    private let monitor = Monitor()
    /// Jobs with transfers that were not begun, oldest first.
    private var jobs: [Job] = []
    private var threads: [pthread_t] = []
    private var isStopping = false
    private var failure: ModelError?
    private var timeline: Timeline?
    private var counts = (read: 0, written: 0)

    /// Many transfers of a cache are single blocks, of which a disk serves the more the more there are at once.
    static let threadCount = 8

    init(_ file: OffloadFile) {
        self.file = file
    }

    /// Begins to work. The threads keep the queue alive until `stop`.
    func start() {
        for _ in 0..<Self.threadCount { threads.append(startThread { [self] in run() }) }
    }

    /// Ends the threads; what is on its way is done to its end, what was not begun never.
    func stop() {
        monitor.withLock {
            isStopping = true
            monitor.broadcast()
        }
        for thread in threads { pthread_join(thread, nil) }
        threads = []
        // What they were to call at the end may hold on to the queue's owner.
        monitor.withLock { jobs = [] }
    }

    /// Asks for transfers, at least one; `whenDone` is called on one of the threads when all have ended.
    func add(_ transfers: [Transfer], whenDone: @escaping @Sendable () -> Void) {
        precondition(!transfers.isEmpty, "OffloadQueue: a job of nothing")
        monitor.withLock {
            jobs.append(Job(transfers, whenDone))
            monitor.broadcast()
        }
    }

    func record(in timeline: Timeline?) {
        monitor.withLock { self.timeline = timeline }
    }

    /// What went wrong first.
    var error: ModelError? { monitor.withLock { failure } }

    /// What has been read and written, in bytes.
    var byteCounts: (read: Int, written: Int) { monitor.withLock { counts } }

    private func run() {
        while let (job, transfer) = next() {
            let start = ContinuousClock.now
            let error = perform(transfer)
            let isDone = monitor.withLock {
                failure = failure ?? error
                note(transfer, from: start)
                job.endedCount += 1
                return job.endedCount == job.transfers.count
            }
            if isDone { job.whenDone() }
        }
    }

    private func next() -> (Job, Transfer)? {
        monitor.withLock {
            while jobs.isEmpty && !isStopping { monitor.wait() }
            if isStopping { return nil }
            let job = jobs[0]
            let transfer = job.transfers[job.begunCount]
            job.begunCount += 1
            if job.begunCount == job.transfers.count { jobs.removeFirst() }
            return (job, transfer)
        }
    }

    private func perform(_ transfer: Transfer) -> ModelError? {
        switch transfer.direction {
        case .read: return file.read(into: transfer.bytes, at: transfer.fileOffset)
        case .write:
            do {
                try file.write(UnsafeRawBufferPointer(transfer.bytes), at: transfer.fileOffset)
                return nil
            } catch {
                return error
            }
        }
    }

    private func note(_ transfer: Transfer, from start: ContinuousClock.Instant) {
        switch transfer.direction {
        case .read:
            counts.read += transfer.bytes.count
            timeline?.add(.disk, "read \(file.contents)", from: start, to: .now)
        case .write:
            counts.written += transfer.bytes.count
            timeline?.add(.disk, "write \(file.contents)", from: start, to: .now)
        }
    }
}
