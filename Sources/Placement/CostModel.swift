/// Predicts how long decode steps and prefill take on a machine.
///
/// All from sizes and measured rates: no device is touched. The GPU lane computes what lies on it and what is streamed
/// to it, the CPU lane the rest of each block (attention, MLP, logits) at the same time; a block ends when both have.
public struct CostModel: Sendable, Hashable {
    /// The ring through which weights are streamed to the GPU.
    public struct Staging: Sendable, Hashable {
        public var slotCount: Int
        public var slotByteCount: Int

        public init(slotCount: Int, slotByteCount: Int) {
            self.slotCount = slotCount
            self.slotByteCount = slotByteCount
        }
    }

    public let hardware: HardwareProfile
    public let workload: Workload
    /// The threads of the CPU lane.
    public let threadCount: Int
    public let staging: Staging
    let rates: Rates

    public init(_ hardware: HardwareProfile, _ workload: Workload, threadCount: Int, staging: Staging) {
        precondition(threadCount > 0, "\(threadCount) threads")
        self.hardware = hardware
        self.workload = workload
        self.threadCount = threadCount
        self.staging = staging
        rates = Rates(hardware, threadCount: threadCount)
    }

    /// The whole workload.
    public func latency(of placement: Placement) -> LatencyPrediction {
        LatencyPrediction(
            prefill: prefill(placement), decodeStep: decodeStep(placement),
            decodeStepCount: workload.decodeStepCount)
    }

    /// What the lanes get of a machine, in bytes and operations a second.
    struct Rates: Sendable, Hashable {
        /// 0 without a GPU.
        let gpuRead: Double
        /// Copies to the GPU while the CPU reads nothing, and while it does; 0 without a GPU.
        let uploadAlone: Double
        let uploadTogether: Double
        /// The CPU lane while nothing is copied, and while something is.
        let cpuReadAlone: Double
        let cpuReadTogether: Double
        /// Of many rows, and of few.
        let cpuOperations: Double
        let cpuFewRowsOperations: Double
        /// Elements of a cache in 4 bits that the CPU attends over, a second.
        let cpuCachedElements: Double
        let disk: Double

        init(_ hardware: HardwareProfile, threadCount: Int) {
            let processor = hardware.processor
            // The share of memory's rate that so many threads draw.
            let draw = min(
                1, Double(threadCount) / (CostModel.saturatingCoreShare * Double(processor.coreCount)))
            let upload = hardware.gpu?.uploadBytesPerSecond ?? 0
            let together = hardware.together
            // Two figures measured one after the other may contradict each other.
            let cpuTogether = min(
                together?.memoryReadBytesPerSecond ?? processor.memoryReadBytesPerSecond,
                processor.memoryReadBytesPerSecond)
            gpuRead = CostModel.gpuReadEfficiency * (hardware.gpu?.memoryReadBytesPerSecond ?? 0)
            uploadAlone = upload
            uploadTogether = upload - draw * max(0, upload - (together?.uploadBytesPerSecond ?? upload))
            cpuReadAlone = CostModel.cpuReadEfficiency * draw * processor.memoryReadBytesPerSecond
            cpuReadTogether = CostModel.cpuReadEfficiency * draw * cpuTogether
            cpuOperations =
                Double(threadCount) * CostModel.cpuOperationsPerSecond(processor.instructionSet)
            cpuFewRowsOperations =
                Double(threadCount) * CostModel.cpuFewRowsOperationsPerSecond(processor.instructionSet)
            cpuCachedElements =
                Double(threadCount) * CostModel.cpuCachedElementsPerSecond(processor.instructionSet)
            disk = hardware.diskReadBytesPerSecond ?? CostModel.assumedDiskBytesPerSecond
        }

        /// The seconds in which the CPU reads `cpuByteCount` of CPU memory and `pcieByteCount` are copied from there to
        /// the GPU: both at the rates together until the shorter of them ends, then the other alone.
        func sharingMemory(cpuByteCount: Double, pcieByteCount: Double) -> (cpu: Double, pcie: Double) {
            let cpu = cpuByteCount / cpuReadTogether
            let pcie = pcieByteCount == 0 ? 0 : pcieByteCount / uploadTogether
            if cpu <= pcie {
                let rest = pcieByteCount - cpu * uploadTogether
                return (cpu, rest <= 0 ? cpu : cpu + rest / uploadAlone)
            }
            return (pcie + (cpuByteCount - pcie * cpuReadTogether) / cpuReadAlone, pcie)
        }
    }
}
