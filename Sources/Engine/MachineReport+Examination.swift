import CUDA
import HostRuntime
import OPTModel
import Placement
import SystemPackage

extension MachineReport {
    public struct Options: Sendable {
        /// Bandwidths that are remembered are taken, others measured over less memory; fewer sizes are checked.
        public var isQuick = false
        /// On the disk that is measured; nil for the user's cache.
        public var offloadFolder: FilePath?
        /// Where bandwidths are remembered; nil for the user's file.
        public var rememberedFile: FilePath?

        public init() {}
    }

    /// Examines this machine: half a minute, less if quick.
    ///
    /// - Parameter progress: called, on any thread, with what is done next.
    public static func examine(
        _ options: Options = Options(), progress: @escaping @Sendable (String) -> Void = { _ in }
    ) async throws -> MachineReport {
        let pool = WorkerPool()
        return try await LeaderThread(pool: pool).perform {
            var report = MachineReport(
                processor: Processor(
                    name: HostProcessor.name, coreCount: pool.workerCount,
                    instructionSet: InstructionSet.available.first?.rawValue ?? "none",
                    availableByteCount: HostMemory.availableByteCount),
                libraries: SystemLibrary.all)
            // The thread has the context current from here on.
            let context = report.findGPU()
            report.findRoom(context, options)
            progress("measuring bandwidths")
            report.measure(context, pool, options)
            if let context, !report.isGPUBroken {
                progress("checking the GPU's operations")
                report.check(context, options)
            }
            report.judge()
            return report
        }
    }

    /// The first GPU's context, where there is one that can be used.
    private mutating func findGPU() -> Context? {
        do {
            let driver = try CUDADriver.load()
            let device = try driver.device()
            let context = try Context(device: device)
            gpu = GPU(
                name: device.name,
                computeCapability: "\(device.computeCapability / 10).\(device.computeCapability % 10)",
                multiprocessorCount: device.multiprocessorCount, memoryByteCount: device.totalByteCount,
                freeByteCount: try context.freeByteCount, driverVersion: NVIDIADriver.release,
                cudaVersion: "\(driver.version / 1000).\(driver.version % 1000 / 10)")
            return context
        } catch {
            gpuProblem = error.reason
            isGPUBroken = error.code != .noDriver && error.code != .noDevice
            return nil
        }
    }

    private mutating func findRoom(_ context: Context?, _ options: Options) {
        let cpuByteCount = processor.availableByteCount ?? .max
        guard let gpu, context != nil else {
            models = ModelFit.published.map { ModelFit($0, inCPUMemory: cpuByteCount) }
            return
        }
        let folder = options.offloadFolder ?? CacheFolder.path
        let budget = MemoryBudget(
            gpuByteCount: max(0, gpu.freeByteCount - LaneLoader.reservedGPUByteCount),
            cpuByteCount: cpuByteCount,
            diskByteCount: OffloadFile.availableByteCount(in: folder) ?? .max)
        models = ModelFit.published.map { ModelFit($0, in: budget) }
    }

    private mutating func measure(_ context: Context?, _ pool: WorkerPool, _ options: Options) {
        if options.isQuick {
            let machine = HardwareProfile.Machine(
                gpuName: gpu?.name, processorName: processor.name, coreCount: processor.coreCount)
            profile = HardwareProfile.remembered(machine, in: options.rememberedFile)
            isProfileRemembered = profile != nil
            if isProfileRemembered { return }
        }
        let measurement = MachineMeasurement(
            pool: pool, isQuick: options.isQuick, offloadFolder: options.offloadFolder)
        do {
            let outcome = try measurement.measure(context)
            profile = outcome.profile
            if let problem = outcome.diskProblem { notes.append(problem) }
        } catch {
            notes.append("the bandwidths could not be measured: \(error)")
            if context != nil {
                gpuProblem = "\(error)"
                isGPUBroken = true
            }
            return
        }
        // A quick measurement is not worth keeping.
        if options.isQuick { return }
        do {
            try profile?.remember(in: options.rememberedFile)
        } catch {
            notes.append("the bandwidths could not be remembered: \(error)")
        }
    }

    private mutating func check(_ context: Context, _ options: Options) {
        let check = GPUOperationCheck(for: context.device, isQuick: options.isQuick)
        checkCount = check.count
        do {
            try check.run(on: context) { checks.append($0) }
        } catch {
            gpuProblem = error.description
            isGPUBroken = true
        }
    }
}
