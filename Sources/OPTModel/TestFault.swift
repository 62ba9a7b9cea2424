import CUDA
import Glibc
import HostRuntime

/// What a test lets go wrong in a decode step, counted from 1 since the model was loaded.
public struct TestFault: Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        /// One of the threads that compute the CPU's part stops for good in the middle of the step; there must be two.
        case cpuLaneDies = "cpu-lane-dies"
        /// A kernel reads what is not there.
        case gpuError = "gpu-error"
        /// One of the threads computes for ten seconds in the middle of the step.
        case slowStep = "slow-step"
    }

    public let kind: Kind
    public let step: Int
    var slowSeconds = 10.0
    private var stepCount = 0

    public init(_ kind: Kind, step: Int) {
        self.kind = kind
        self.step = step
    }

    /// KIND@STEP; nil for any other text.
    public init?(_ text: String) {
        let parts = text.split(separator: "@", omittingEmptySubsequences: false)
        guard parts.count == 2, let kind = Kind(rawValue: String(parts[0])), let step = Int(parts[1]),
            step > 0
        else { return nil }
        self.init(kind, step: step)
    }

    mutating func beginStep() { stepCount += 1 }

    /// What goes wrong in the step that has begun.
    var due: Kind? { stepCount == step ? kind : nil }

    /// Says so, for a test that waits for it.
    static func report(_ kind: Kind) {
        var line = "test fault: \(kind.rawValue)\n"
        line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }

    /// Lets the calling thread fail.
    func strike() {
        Self.report(kind)
        switch kind {
        case .cpuLaneDies: while true { sleep(1000) }
        case .slowStep:
            let end = ContinuousClock.now + .seconds(slowSeconds)
            while ContinuousClock.now < end {}
        case .gpuError: break
        }
    }
}

/// A step in which one of the threads fails.
private final class FaultyStep: WorkerTask, @unchecked Sendable {  // made for one step, and constant
    private let task: any WorkerTask
    private let pool: WorkerPool
    private let failing: (_ worker: Int) -> Void

    /// - Parameter failing: the failing worker's part.
    init(_ task: any WorkerTask, pool: WorkerPool, failing: @escaping (_ worker: Int) -> Void) {
        self.task = task
        self.pool = pool
        self.failing = failing
    }

    func run(worker: Int) {
        if worker == min(1, pool.activeCount - 1) { failing(worker) } else { task.run(worker: worker) }
    }
}

extension GPULane {
    /// The threads' task of a step, with what a test lets go wrong in it.
    func withTestFault(_ task: any WorkerTask, of part: any CPUPart) throws -> any WorkerTask {
        guard let testFault, let kind = testFault.due else { return task }
        // Work beside the step's.
        let stream = kind == .gpuError ? try Stream(context: context) : nil
        return FaultyStep(task, pool: part.workers.pool) { [self] worker in
            let middle = part.layerCount / 2
            part.run(worker: worker, layers: 0..<middle)
            if let stream {
                try! context.makeCurrent()
                try! failGPU(on: stream)
            } else {
                testFault.strike()
            }
            part.run(worker: worker, layers: middle..<part.layerCount)
        }
    }

    /// Lets a kernel write where there is no memory, which ends all of the process's work on the GPU.
    func failGPU(on stream: Stream) throws {
        TestFault.report(.gpuError)
        try kernels.signal(flag: Self.unmappedAddress, value: 0, on: stream)
    }

    static let unmappedAddress: UInt64 = 16
}

extension CPULane {
    /// The same of a step that the processor computes alone.
    func withTestFault() -> any WorkerTask {
        guard let testFault, testFault.due != nil else { return self }
        return FaultyStep(self, pool: pool) { [self] worker in
            testFault.strike()
            run(worker: worker)
        }
    }
}
