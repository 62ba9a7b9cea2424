/// With what the ranks' GPUs exchange their sums.
public enum CommunicationDevice: String, Sendable, Hashable, CaseIterable {
    /// From GPU to GPU: NCCL, or directly within a machine.
    case gpu
    /// By way of CPU memory and MPI.
    case cpu
}

/// How GPUs add their parts up.
public enum AllReduceChoice: String, Sendable, Hashable, CaseIterable {
    /// One-shot for small sums where all GPUs see each other's memory, NCCL for everything else.
    case auto
    case nccl
    /// Each GPU writes its part into the memory of all others.
    case oneShot = "one-shot"
}
