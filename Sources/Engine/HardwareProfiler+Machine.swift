import CUDA
import FoundationEssentials
import HostRuntime
import OPTModel
import Placement
import SystemPackage

/// The machine measured without a model.
extension HardwareProfiler {
    /// What this machine sustains: what is remembered of it, else measured within half a minute and remembered.
    ///
    /// Where a GPU is there but cannot be used, it counts as none.
    ///
    /// - Parameters:
    ///   - offloadFolder: on the disk that is measured; nil for the user's cache.
    ///   - measuresAgain: whatever is remembered.
    ///   - gpuIndex: of the GPU that is measured.
    ///   - notice: called with a sentence before the machine is measured.
    public static func profileOfMachine(
        offloadFolder: FilePath? = nil, measuresAgain: Bool = false, gpuIndex: Int = 0,
        notice: (String) -> Void = { _ in }
    ) async throws -> HardwareProfile {
        if !measuresAgain, let profile = HardwareProfile.remembered() { return profile }
        notice("measuring this machine, which is done once (tandem doctor does it again)")
        let pool = WorkerPool()
        let profile = try await LeaderThread(pool: pool).perform {
            let context = try? Context(device: CUDADriver.load().device(gpuIndex))
            return try MachineMeasurement(pool: pool, offloadFolder: offloadFolder).measure(context).profile
        }
        try? profile.remember()
        return profile
    }
}

/// One measurement of the machine, made on the pool's leader thread.
struct MachineMeasurement {
    let pool: WorkerPool
    var isQuick = false
    var offloadFolder: FilePath?

    struct Outcome {
        var profile: HardwareProfile
        /// Why the disk's figure is missing, in a sentence.
        var diskProblem: String?
    }

    /// Bandwidths of memory, PCIe and disk.
    ///
    /// - Parameter context: of the GPU; nil to leave it out.
    func measure(_ context: Context?) throws -> Outcome {
        guard let instructionSet = InstructionSet.available.first, let kernels = instructionSet.kernels else {
            throw EngineError(.invalidOption, "no CPU kernels were built for this processor")
        }
        let memory = try HostBuffer(byteCount: memoryByteCount)
        pool.firstTouch(base: memory.baseAddress, byteCount: memory.byteCount)
        // As the lane reads: on all processors where it computes alone, on fewer beside copies. Which loop is the faster one
        // depends on the processor.
        let beside = WorkerPool(workerCount: WorkerPool.workerCountBesideStreaming)
        beside.pinLeader()
        defer { pool.pinLeader() }
        var readRate = 0.0
        var besideRate = 0.0
        var task = ReadTask(regions: [], read: kernels.pointee.read_all, workerCount: 1)
        for read in [kernels.pointee.read_all!, kernels.pointee.read_in_order!] {
            for readers in [pool, beside] {
                let reading = ReadTask(
                    regions: [UnsafeRawBufferPointer(start: memory.baseAddress, count: memory.byteCount)],
                    read: read, workerCount: readers.workerCount)
                let rate = Self.bestRate(byteCount: reading.byteCount) { readers.run(reading) }
                readRate = max(readRate, rate)
                if readers === beside && rate > besideRate { (besideRate, task) = (rate, reading) }
            }
        }
        var profile = HardwareProfile(
            gpu: nil,
            processor: HardwareProfile.Processor(
                name: HostProcessor.name, coreCount: pool.workerCount,
                instructionSet: instructionSet.rawValue, memoryReadBytesPerSecond: readRate),
            diskReadBytesPerSecond: nil, together: nil, date: Date.now.formatted(.iso8601))
        if let context {
            let bandwidth = try GPUBandwidth(context)
            let device = context.device
            let gpu = HardwareProfile.GPU(
                name: device.name, memoryByteCount: device.totalByteCount,
                multiprocessorCount: device.multiprocessorCount, driverVersion: NVIDIADriver.release,
                rates: HardwareProfile.GPU.Rates(
                    memoryRead: try bandwidth.memoryReadRate(), upload: try bandwidth.uploadRate(),
                    download: try bandwidth.downloadRate()))
            profile.gpu = gpu
            // Several rounds of reading beside the copies.
            let roundSeconds = Double(task.byteCount) / besideRate
            let both = try bandwidth.uploadRate(
                lasting: min(4, max(isQuick ? 0.3 : 1, 6 * roundSeconds)), at: gpu.uploadBytesPerSecond
            ) {
                beside.run(task)
            }
            let seconds = both.roundSeconds.reduce(0, +)
            profile.together = HardwareProfile.Together(
                memoryReadBytesPerSecond: seconds > 0
                    ? Double(task.byteCount * both.roundSeconds.count) / seconds : besideRate,
                uploadBytesPerSecond: both.rate, joinSeconds: try bandwidth.joinSeconds())
        }
        var outcome = Outcome(profile: profile)
        do {
            outcome.profile.diskReadBytesPerSecond = try measureDisk()
        } catch {
            outcome.diskProblem = error.description
        }
        return outcome
    }

    /// A quarter of what is free, so that nothing else is driven out; at least a few caches' worth.
    private var memoryByteCount: Int {
        let most = isQuick ? 1 << 30 : 4 << 30
        let free = HostMemory.availableByteCount ?? most
        return (max(64 << 20, min(most, free / 4)) >> 21) << 21
    }

    private func measureDisk() throws(ModelError) -> Double? {
        let folder = offloadFolder ?? CacheFolder.path
        let free = OffloadFile.availableByteCount(in: folder) ?? .max
        let byteCount = isQuick ? 256 << 20 : free > (20 << 30) ? 2 << 30 : 1 << 30
        guard free >= 2 * byteCount else {
            throw ModelError(
                .offload, file: folder,
                "the disk of \(folder) has \(free.gibibytes()) GiB free, too little to measure it; name a folder on "
                    + "a disk with room with --offload-dir")
        }
        return try OffloadFile.measureReadRate(in: folder, byteCount: byteCount)
    }

    /// Bytes a second of the best of five runs, after one that is left out.
    private static func bestRate(byteCount: Int, _ run: () -> Void) -> Double {
        var best = 0.0
        for round in 0...5 {
            let start = ContinuousClock.now
            run()
            let rate = Double(byteCount) / start.duration(to: .now).seconds
            if round > 0 { best = max(best, rate) }
        }
        return best
    }
}
