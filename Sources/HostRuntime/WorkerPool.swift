import Glibc
import Synchronization
import SystemShims

/// Work that every thread of a pool does its part of.
public protocol WorkerTask: AnyObject, Sendable {
    /// Does the part of thread `worker`, of `0 ..< pool.workerCount`. All threads run it at the same time, so they
    /// may meet in `pool.barrier`.
    func run(worker: Int)
}

/// Threads that stay on their processors and wait for work by polling, then, after a while, asleep.
///
/// Worker 0 is the thread that calls `run`; only one thread at a time may do so. Starting a task and ending it cost
/// about a barrier each and allocate nothing.
public final class WorkerPool: Sendable {
    public let workerCount: Int
    /// Where the workers of a running task meet.
    public let barrier: SpinBarrier

    private let processors: [Int32]
    private let post: StartingPost
    private let threads: [pthread_t]

    /// The processors that this process may use.
    public static var availableProcessorCount: Int {
        max(1, Int(tandem_allowed_processors(nil, 0)))
    }

    /// - Parameter workerCount: threads, the caller's included; nil for one on each available processor.
    public init(workerCount: Int? = nil) {
        let available = Self.availableProcessorCount
        let count = workerCount ?? available
        precondition(count > 0, "WorkerPool: \(count) workers")
        self.workerCount = count
        let barrier = SpinBarrier(participantCount: count)
        let post = StartingPost()
        var allowed = [Int32](repeating: 0, count: available)
        tandem_allowed_processors(&allowed, Int32(available))
        // More threads than processors: let the system place them.
        let processors = count <= available ? Array(allowed.prefix(count)) : []
        threads = (1..<max(1, count)).map { worker in
            startThread {
                if worker < processors.count { tandem_pin_current_thread(processors[worker]) }
                var started: UInt32 = 0
                while let task = post.waitForTask(after: started) {
                    task.run(worker: worker)
                    barrier.wait()
                    started &+= 1
                }
            }
        }
        self.barrier = barrier
        self.post = post
        self.processors = processors
    }

    deinit {
        post.start(nil)
        for thread in threads { pthread_join(thread, nil) }
    }

    /// Keeps the calling thread on worker 0's processor, for the thread that will call `run` from now on.
    public func pinLeader() {
        if let processor = processors.first { tandem_pin_current_thread(processor) }
    }

    /// Runs the task on all workers, the caller being worker 0, and returns when all have done their part.
    public func run(_ task: any WorkerTask) {
        post.start(task)
        task.run(worker: 0)
        barrier.wait()
    }

    /// Runs a closure on all workers. For loading and setting up; it allocates.
    public func forEachWorker(_ body: @escaping @Sendable (_ worker: Int) -> Void) {
        run(ClosureTask(body: body))
    }

    /// Makes the pages of a buffer in parallel, each worker an equal, contiguous share.
    public func firstTouch(base: UnsafeMutableRawPointer, byteCount: Int) {
        run(TouchTask(base: base, byteCount: byteCount, workerCount: workerCount))
    }
}

/// Where workers wait for their next task: they poll, then sleep on the counter's address.
private final class StartingPost: @unchecked Sendable {  // `task` is written only while every worker waits
    private var task: (any WorkerTask)?
    private let sleeperCount = Atomic<Int>(0)
    /// Counts the tasks that were started.
    private let startedCount: UnsafeMutablePointer<Atomic<UInt32>>

    /// Polls before an idle worker goes to sleep: some milliseconds, more than the host needs between two tokens.
    private static let pollsBeforeSleep = 50_000

    init() {
        startedCount = .allocate(capacity: 1)
        startedCount.initialize(to: Atomic(0))
    }

    deinit {
        startedCount.deinitialize(count: 1)
        startedCount.deallocate()
    }

    /// Hands `task` to all workers; nil sends them home.
    func start(_ task: (any WorkerTask)?) {
        self.task = task
        startedCount.pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        if sleeperCount.load(ordering: .sequentiallyConsistent) > 0 { tandem_futex_wake_all(address) }
    }

    func waitForTask(after started: UInt32) -> (any WorkerTask)? {
        var polls = 0
        while startedCount.pointee.load(ordering: .sequentiallyConsistent) == started {
            polls += 1
            if polls < Self.pollsBeforeSleep {
                tandem_spin_hint()
                continue
            }
            sleeperCount.wrappingAdd(1, ordering: .sequentiallyConsistent)
            tandem_futex_wait(address, started)
            sleeperCount.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        }
        return task
    }

    private var address: UnsafePointer<UInt32> {
        UnsafeRawPointer(startedCount).assumingMemoryBound(to: UInt32.self)
    }
}

/// Starts a POSIX thread that runs `body`.
public func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let box = Unmanaged.passRetained(Box(body: body))
    let status = pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
            return nil
        }, box.toOpaque())
    precondition(status == 0, "pthread_create: \(String(cString: strerror(status)))")
    return thread
}

private final class ClosureTask: WorkerTask {
    let body: @Sendable (Int) -> Void
    init(body: @escaping @Sendable (Int) -> Void) { self.body = body }
    func run(worker: Int) { body(worker) }
}

private final class TouchTask: WorkerTask, @unchecked Sendable {  // the buffer outlives the run
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    let workerCount: Int

    init(base: UnsafeMutableRawPointer, byteCount: Int, workerCount: Int) {
        self.base = base
        self.byteCount = byteCount
        self.workerCount = workerCount
    }

    func run(worker: Int) {
        // Shares of whole huge pages, so that no page is made by two workers.
        let range = share(of: byteCount, worker: worker, of: workerCount, multiple: 2 << 20)
        var offset = range.lowerBound
        while offset < range.upperBound {
            base.storeBytes(of: 0, toByteOffset: offset, as: UInt8.self)
            offset += 4096
        }
    }
}

/// The part of `0 ..< count` that falls to `worker`, in units of `multiple` (the last unit may be smaller).
public func share(of count: Int, worker: Int, of workerCount: Int, multiple: Int = 1) -> Range<Int> {
    let units = (count + multiple - 1) / multiple
    let lower = units * worker / workerCount * multiple
    let upper = units * (worker + 1) / workerCount * multiple
    return min(lower, count)..<min(upper, count)
}
