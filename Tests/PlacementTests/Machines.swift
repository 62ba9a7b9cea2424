import Placement

extension HardwareProfile {
    /// One H200 with 16 cores of a Sapphire Rapids, as they were measured on 2026-11-22 and 23.
    static let h200 = HardwareProfile(
        gpu: GPU(
            name: "NVIDIA H200", memoryByteCount: 150_754_820_096, multiprocessorCount: 132,
            driverVersion: nil, rates: GPU.Rates(memoryRead: 4.55e12, upload: 5.55e10, download: 5.4e10)),
        processor: Processor(
            name: "Xeon", coreCount: 16, instructionSet: "avx512", memoryReadBytesPerSecond: 1.1e11),
        diskReadBytesPerSecond: 2.72e9,
        together: Together(memoryReadBytesPerSecond: 9.5e10, uploadBytesPerSecond: 4.95e10),
        date: "2026-11-23T00:00:00Z")

    /// The same without its GPU.
    static let xeon: HardwareProfile = {
        var profile = h200
        profile.gpu = nil
        profile.together = nil
        return profile
    }()
}

extension Workload {
    /// As FlexGen's defaults.
    static func standard(batchSize: Int = 1) -> Workload {
        Workload(batchSize: batchSize, promptLength: 512, generationLength: 32)
    }
}

extension WorkingMemory {
    /// As the engine's GPU lane has it, with a scratch of 300 MiB.
    init(_ shape: ModelShape, _ workload: Workload) {
        self.init()
        cachePositionCount = workload.batchSize * (workload.promptLength + workload.generationLength)
        cacheSlotCount = 4
        stagingSlotByteCount = shape.headCount * shape.bytesPerHead
        stagingSlotCount = 4
        fetchSlotCount = 2
        gpuScratchByteCount = 300 << 20
        readBufferByteCount = 3 * stagingSlotByteCount
    }
}

extension CostModel {
    init(
        _ shape: ModelShape, _ workload: Workload = .standard(), on hardware: HardwareProfile = .h200,
        threadCount: Int = 16, slotCount: Int = 4
    ) {
        self.init(
            hardware, workload, threadCount: threadCount,
            staging: Staging(slotCount: slotCount, slotByteCount: shape.headCount * shape.bytesPerHead))
    }
}
