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
    /// - Throws: `EngineError` with `machineNotMeasured`.
    public static func profileOfMachine(
        offloadFolder: FilePath? = nil, measuresAgain: Bool = false, gpuIndex: Int = 0,
        notice: (String) -> Void = { _ in }
    ) async throws -> HardwareProfile {
        if !measuresAgain, let profile = HardwareProfile.remembered() { return profile }
        notice("measuring this machine, which is done once (tandem doctor does it again)")
        let pool = WorkerPool()
        let profile: HardwareProfile
        do {
            profile = try await LeaderThread(pool: pool).perform {
                let context = try? Context(device: CUDADriver.load().device(gpuIndex))
                return try MachineMeasurement(pool: pool, offloadFolder: offloadFolder).measure(context)
                    .profile
            }
        } catch {
            // Not as it is: what the measurement itself has no room for is not a model without room.
            throw EngineError(.machineNotMeasured, "this machine could not be measured: \(error)")
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
        // As the lane reads: on all processors where it computes alone, on fewer beside copies.
        let beside = WorkerPool(workerCount: WorkerPool.workerCountBesideStreaming)
        beside.pinLeader()
        defer { pool.pinLeader() }
        let region = UnsafeRawBufferPointer(start: memory.baseAddress, count: memory.byteCount)
        let loops: [ReadTask.Read] = [kernels.pointee.read_all, kernels.pointee.read_in_order]
        let readers = Reader.measured(loops, by: [pool, beside], region)
        let alone = readers.fastest
        var profile = HardwareProfile(
            gpu: nil,
            processor: HardwareProfile.Processor(
                name: HostProcessor.name, coreCount: pool.workerCount,
                instructionSet: instructionSet.rawValue, memoryReadBytesPerSecond: alone.rate),
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
            let rates = try hostRates(
                alone: alone, beside: readers.filter { $0.pool === beside }.fastest, bandwidth, gpu)
            profile.processor.memoryReadBytesPerSecond = rates.alone
            profile.together = HardwareProfile.Together(
                memoryReadBytesPerSecond: rates.readTogether, uploadBytesPerSecond: rates.uploadTogether,
                joinSeconds: try bandwidth.joinSeconds())
        }
        var outcome = Outcome(profile: profile)
        do {
            outcome.profile.diskReadBytesPerSecond = try measureDisk()
        } catch {
            outcome.diskProblem = error.description
        }
        return outcome
    }

    /// What CPU memory gives alone and beside copies, in turns, and the median of each: on a machine that has neighbours the
    /// best of one beside the mean of the other would favour one of them.
    private func hostRates(
        alone: Reader, beside: Reader, _ bandwidth: GPUBandwidth, _ gpu: HardwareProfile.GPU
    ) throws(ModelError) -> (alone: Double, readTogether: Double, uploadTogether: Double) {
        var reads: [Double] = []
        var readsTogether: [Double] = []
        var uploads: [Double] = []
        for _ in 0..<(isQuick ? 3 : 7) {
            reads.append(alone.meanRate(lasting: 0.15))
            let both = try bandwidth.uploadRate(
                lasting: max(0.25, 3 * beside.roundSeconds), at: gpu.uploadBytesPerSecond
            ) {
                beside.run()
            }
            uploads.append(both.rate)
            let seconds = both.roundSeconds.reduce(0, +)
            if seconds > 0 {
                readsTogether.append(Double(beside.byteCount * both.roundSeconds.count) / seconds)
            }
        }
        let read = reads.median!
        return (read, readsTogether.median ?? read, uploads.median!)
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
                "the disk of \(folder) has \(free.byteSize()) free, too little to measure it; name a folder on "
                    + "a disk with room with --offload-dir")
        }
        return try OffloadFile.measureReadRate(in: folder, byteCount: byteCount)
    }
}

/// Threads that read memory with one of the loops that the kernels have for it.
private struct Reader {
    let pool: WorkerPool
    let task: ReadTask
    /// Of one round, about.
    let roundSeconds: Double

    var byteCount: Int { task.byteCount }

    func run() { pool.run(task) }

    /// Bytes a second of as many rounds as take that long, at least one.
    func meanRate(lasting seconds: Double) -> Double {
        let start = ContinuousClock.now
        var roundCount = 0
        repeat {
            run()
            roundCount += 1
        } while start.duration(to: .now).seconds < seconds
        return Double(roundCount * byteCount) / start.duration(to: .now).seconds
    }

    /// In bytes a second, of the best round.
    var rate: Double { Double(byteCount) / roundSeconds }

    /// Each loop by each pool: of five rounds the best counts, after one that is left out. Which loop is the faster one depends
    /// on the processor.
    static func measured(
        _ loops: [ReadTask.Read], by pools: [WorkerPool], _ memory: UnsafeRawBufferPointer
    ) -> [Reader] {
        loops.flatMap { loop in
            pools.map { pool in
                let task = ReadTask(regions: [memory], read: loop, workerCount: pool.workerCount)
                pool.run(task)
                let seconds = (0..<5).map { _ in
                    let start = ContinuousClock.now
                    pool.run(task)
                    return start.duration(to: .now).seconds
                }.min()!
                return Reader(pool: pool, task: task, roundSeconds: seconds)
            }
        }
    }
}

extension [Reader] {
    fileprivate var fastest: Reader { self.min { $0.roundSeconds < $1.roundSeconds }! }
}
