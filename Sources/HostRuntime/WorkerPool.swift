import Glibc
import Synchronization
import SystemShims

/// Work that every thread of a pool does its part of.
public protocol WorkerTask: AnyObject, Sendable {
    /// Does the part of thread `worker`, of `0 ..< pool.activeCount`. All threads run it at the same time, so they
    /// may meet in `pool.barrier`.
    func run(worker: Int)
}

/// Threads that stay on their processors and wait for work by polling, then, after a while, asleep.
///
/// Worker 0 is the thread that calls `run`; only one thread at a time may do so. Starting a task and ending it cost
/// about a barrier each and allocate nothing.
public final class WorkerPool: @unchecked Sendable {  // what changes is the leader's, between runs
    public let workerCount: Int
    /// The workers that take part in the running task, or took part in the last one.
    public private(set) var activeCount: Int
    /// Where the workers of a running task meet.
    public let barrier: SpinBarrier
    /// How often workers have left processors that other programs use, or come back to them.
    public private(set) var moveCount = 0

    private let post: StartingPost
    private let threads: [pthread_t]
    private let watch: CrowdWatch?
    private let stations: Stations
    private let life: LifeWatch

    /// The processors that this process may use.
    public static var availableProcessorCount: Int {
        max(1, Int(tandem_allowed_processors(nil, 0)))
    }

    /// The workers that compute while others stream.
    ///
    /// Threads that would spin on every processor take turns with those that stream and with the driver's: opt-6.7b, 30 % on
    /// the GPU, took 123 ms a token with 15 and 16 threads of 16 processors, 99 with 14, 105 with 12 (Xeon, H200).
    public static var workerCountBesideStreaming: Int { max(1, availableProcessorCount - 2) }

    /// - Parameter workerCount: threads, the caller's included; nil for one on each available processor.
    public init(workerCount: Int? = nil) {
        let available = Self.availableProcessorCount
        let count = workerCount ?? available
        precondition(count > 0 && count <= StartingPost.mostWorkers, "WorkerPool: \(count) workers")
        self.workerCount = count
        activeCount = count
        let life = LifeWatch(workerCount: count)
        let barrier = SpinBarrier(participantCount: count, life: life)
        let post = StartingPost()
        var allowed = [Int32](repeating: 0, count: available)
        tandem_allowed_processors(&allowed, Int32(available))
        // More threads than processors: let the system place them.
        watch = count <= available ? CrowdWatch(processors: allowed, workerCount: count) : nil
        let stations = Stations(count: count)
        if let watch { stations.assign(watch.places) }
        threads = (1..<max(1, count)).map { worker in
            startThread {
                life.register(worker)
                var seen = StartingPost.Start()
                // A worker gives its task up before it comes to the barrier: it must never be the last to hold it.
                while post.waitForTask(of: worker, after: &seen, { stations.run($0, worker) }) {
                    barrier.wait()
                }
            }
        }
        self.barrier = barrier
        self.post = post
        self.stations = stations
        self.life = life
    }

    deinit {
        post.start(nil, workerCount: workerCount)
        for thread in threads {
            // One that has stopped for good never ends.
            if hasLostWorker { pthread_detach(thread) } else { pthread_join(thread, nil) }
        }
    }

    /// Keeps the calling thread on worker 0's processor, for the thread that will call `run` from now on. Without it the
    /// caller of `run` stays where the system puts it.
    public func pinLeader() {
        stations.isLeaderPinned = true
        stations.pin(0)
    }

    /// Runs the task on all workers, the caller being worker 0, and returns when all have done their part.
    public func run(_ task: any WorkerTask) { run(task, on: workerCount) }

    /// Whether a worker stopped for good in a task that was run undisturbed: what that task computed is worth nothing then,
    /// and from then on the leader does all tasks alone.
    public var hasLostWorker: Bool { life.hasLostWorker }

    /// For workers that wait for something other than the barrier: looks now and then whether the others are alive.
    ///
    /// - Returns: `hasLostWorker`.
    public func lookAfterWorkers() -> Bool { life.look() }

    /// The workers that `runUndisturbed` takes next.
    public var undisturbedCount: Int { hasLostWorker ? 1 : watch?.activeCount ?? workerCount }

    /// Runs the task on those workers that have a processor to themselves, as far as earlier runs have shown which do.
    ///
    /// No part of the task may sleep: a worker that sleeps for a second is taken for one that has stopped for good.
    public func runUndisturbed(_ task: any WorkerTask) {
        life.begin(workerCount: watch?.activeCount ?? workerCount)
        defer { life.end() }
        guard let watch else { return run(task) }
        let start = ContinuousClock.now
        run(task, on: watch.activeCount)
        if hasLostWorker { return }
        let seconds = start.duration(to: .now) / .seconds(1)
        if watch.note(runSeconds: seconds, lost: { stations.lostSeconds(of: $0) }) {
            stations.assign(watch.places)
            moveCount += 1
        }
    }

    /// Runs the task on the first workers.
    func run(_ task: any WorkerTask, on count: Int) {
        let count = hasLostWorker ? 1 : count
        activeCount = count
        barrier.participantCount = count
        post.start(task, workerCount: count)
        stations.run(task, 0)
        barrier.wait()
        // What runs on a pool often owns it.
        post.clear()
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

/// Where each worker runs, and for how long it did not.
private final class Stations: @unchecked Sendable {  // a worker writes its own station alone
    /// On cache lines of their own.
    private struct Station {
        /// Where the worker is to run, written by the leader between runs; -1 for anywhere.
        var place: Int32 = -1
        /// Where it is bound to.
        var boundTo: Int32 = -1
        var lostSeconds = 0.0
        private let padding: (SIMD8<Int64>, SIMD4<Int64>) = (.zero, .zero)
    }

    private let stations: UnsafeMutableBufferPointer<Station>
    /// Whether worker 0 follows its place: a thread that only lends itself to a run must not be bound by it.
    var isLeaderPinned = false

    init(count: Int) {
        stations = .allocate(capacity: count)
        stations.initialize(repeating: Station())
    }

    deinit { stations.deallocate() }

    func assign(_ places: [Int32]) {
        for rank in stations.indices { stations[rank].place = places[rank] }
    }

    func lostSeconds(of worker: Int) -> Double { stations[worker].lostSeconds }

    /// Binds the calling thread to a worker's place.
    func pin(_ worker: Int) {
        let place = stations[worker].place
        if place < 0 { return }
        tandem_pin_current_thread(place)
        stations[worker].boundTo = place
    }

    /// The worker's part of a task, where it is to run.
    func run(_ task: any WorkerTask, _ worker: Int) {
        if stations[worker].place != stations[worker].boundTo, worker > 0 || isLeaderPinned { pin(worker) }
        let start = (Self.seconds(CLOCK_MONOTONIC), Self.seconds(CLOCK_THREAD_CPUTIME_ID))
        task.run(worker: worker)
        stations[worker].lostSeconds =
            Self.seconds(CLOCK_MONOTONIC) - start.0 - (Self.seconds(CLOCK_THREAD_CPUTIME_ID) - start.1)
    }

    private static func seconds(_ clock: clockid_t) -> Double {
        var time = timespec()
        clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}

/// Where workers wait for their next task: they poll, then sleep on the counter's address. Those that the next task does
/// not need sleep until one does.
private final class StartingPost: @unchecked Sendable {  // `task` is written while every worker waits
    /// The count of started tasks, and how many workers the last of them has: one word, so that a worker that was left out
    /// for some tasks never takes one task for another.
    struct Start: Equatable {
        var word: UInt32 = 0
        var workerCount: Int { Int(word & (1 << StartingPost.countBits - 1)) }
    }

    private var task: (any WorkerTask)?
    private let sleeperCount = Atomic<Int>(0)
    private let word: UnsafeMutablePointer<Atomic<UInt32>>
    /// The workers of the next task, as far as is known.
    private let needed: UnsafeMutablePointer<Atomic<UInt32>>

    static let mostWorkers = 1 << countBits - 1
    private static let countBits: UInt32 = 11
    /// Polls before an idle worker goes to sleep: some milliseconds, more than the host needs between two tokens.
    private static let pollsBeforeSleep = 50_000

    init() {
        word = .allocate(capacity: 1)
        word.initialize(to: Atomic(0))
        needed = .allocate(capacity: 1)
        needed.initialize(to: Atomic(UInt32(Self.mostWorkers)))
    }

    deinit {
        word.deinitialize(count: 1)
        word.deallocate()
        needed.deinitialize(count: 1)
        needed.deallocate()
    }

    /// Hands `task` to the first workers; nil sends them home.
    func start(_ task: (any WorkerTask)?, workerCount: Int) {
        let before = needed.pointee.exchange(UInt32(workerCount), ordering: .sequentiallyConsistent)
        if workerCount > Int(before) { tandem_futex_wake_all(Self.address(needed)) }
        self.task = task
        let number = (word.pointee.load(ordering: .relaxed) >> Self.countBits) &+ 1
        word.pointee.store(number << Self.countBits | UInt32(workerCount), ordering: .sequentiallyConsistent)
        if sleeperCount.load(ordering: .sequentiallyConsistent) > 0 {
            tandem_futex_wake_all(Self.address(word))
        }
    }

    /// Forgets the task, which all of its workers have ended.
    func clear() { task = nil }

    /// Waits for the next task that a worker takes part in, and does `body` with it.
    ///
    /// - Returns: false when the worker is sent home.
    func waitForTask(of worker: Int, after seen: inout Start, _ body: (any WorkerTask) -> Void) -> Bool {
        var polls = 0
        while true {
            let start = Start(word: word.pointee.load(ordering: .sequentiallyConsistent))
            if start != seen {
                seen = start
                polls = 0
                // The task stays as it is until all of its workers have done their part.
                if worker >= start.workerCount { continue }
                guard let task else { return false }
                body(task)
                return true
            }
            polls += 1
            let needed = needed.pointee.load(ordering: .sequentiallyConsistent)
            if worker >= Int(needed) {
                tandem_futex_wait(Self.address(self.needed), needed)
            } else if polls < Self.pollsBeforeSleep {
                tandem_spin_hint()
            } else {
                sleeperCount.wrappingAdd(1, ordering: .sequentiallyConsistent)
                tandem_futex_wait(Self.address(word), seen.word)
                sleeperCount.wrappingSubtract(1, ordering: .sequentiallyConsistent)
            }
        }
    }

    private static func address(_ word: UnsafeMutablePointer<Atomic<UInt32>>) -> UnsafePointer<UInt32> {
        UnsafeRawPointer(word).assumingMemoryBound(to: UInt32.self)
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
