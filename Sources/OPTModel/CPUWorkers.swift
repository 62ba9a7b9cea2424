import CPUKernels
import HostRuntime

/// Threads of the processor, with the kernels that they run, for a lane that is not theirs alone.
public struct CPUWorkers: @unchecked Sendable {  // the kernels are constant
    public let pool: WorkerPool
    public let kernels: UnsafePointer<tandem_cpu_kernels>
    /// Whether they compute attention over the cache in CPU memory of heads that the other lane computes.
    let computesCache: Bool
    /// How long they and the other lane wait for each other.
    var linkLimits = LaneLink.TimeLimits()

    /// - Parameter pool: its leader thread leads the lane, too.
    public init(
        _ pool: WorkerPool, kernels: UnsafePointer<tandem_cpu_kernels>, computesCache: Bool = true
    ) {
        self.pool = pool
        self.kernels = kernels
        self.computesCache = computesCache
    }
}
