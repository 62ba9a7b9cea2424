/// The predicted seconds of one pass through the model, a decode step or a prefill, and what they go to.
///
/// Resources work at the same time, so their seconds do not add up to `seconds`.
public struct StepCost: Sendable, Hashable {
    public enum Resource: String, Sendable, Hashable, CaseIterable {
        case gpu
        case pcie
        case cpu
        case disk
    }

    /// From the pass's begin to its end.
    public var seconds = 0.0
    /// The GPU's kernels: reading GPU memory, in prefill arithmetic.
    public var gpuSeconds = 0.0
    /// Copies to the GPU, and what its kernels read of CPU memory.
    public var pcieSeconds = 0.0
    /// The CPU's part of the layers: reading CPU memory, and arithmetic.
    public var cpuSeconds = 0.0
    public var diskSeconds = 0.0
    /// The joins of both lanes at the end of blocks.
    public var joinSeconds = 0.0
    /// What everything else waits for.
    public var waitedFor = Resource.gpu

    public init() {}
}

/// The predicted latency of a workload.
public struct LatencyPrediction: Sendable, Hashable {
    /// The time to the first token.
    public let prefill: StepCost
    /// An average step.
    public let decodeStep: StepCost
    public let decodeStepCount: Int

    public var decodeSeconds: Double { Double(decodeStepCount) * decodeStep.seconds }
    public var seconds: Double { prefill.seconds + decodeSeconds }
}
