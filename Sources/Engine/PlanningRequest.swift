import CUDA
import FoundationEssentials
import OPTModel
import Placement
import SystemPackage

/// What a placement is to be chosen for, without loading anything.
public struct PlanningRequest: Sendable {
    public var workload: Workload
    /// As in `Engine.Options`.
    public var gpuMemoryByteCount: Int?
    public var cpuMemoryByteCount: Int?
    public var stagingSlotCount = 4
    public var offloadFolder: FilePath?
    /// What `tandem doctor --json` printed on the machine that is meant; nil for this one.
    public var machineReport: FilePath?
    /// Measures this machine although it is remembered.
    public var measuresMachine = false
    /// nil to choose it.
    public var threadCount: Int?

    public init(_ workload: Workload) { self.workload = workload }

    /// What plans a placement of a model.
    ///
    /// - Throws: `EngineError` where the machine's report cannot be read.
    public func planner(for configuration: OPTConfiguration) async throws -> PlacementPlanner {
        let profile: HardwareProfile
        let budget: MemoryBudget
        if let machineReport {
            profile = try Self.profile(in: machineReport)
            budget = MemoryBudget(
                free: profile.gpu?.memoryByteCount ?? 0, gpuLimit: gpuMemoryByteCount,
                cpuLimit: cpuMemoryByteCount, cpuFree: .max, diskFree: .max)
        } else {
            profile = try await HardwareProfiler.profileOfMachine(
                offloadFolder: offloadFolder, measuresAgain: measuresMachine)
            budget = try MemoryBudget(
                free: profile.gpu == nil
                    ? 0 : Context(device: CUDADriver.load().device()).freeByteCount,
                gpuLimit: gpuMemoryByteCount, cpuLimit: cpuMemoryByteCount,
                cpuFree: HostMemory.availableByteCount ?? .max,
                diskFree: OffloadFile.availableByteCount(in: offloadFolder ?? CacheFolder.path) ?? .max)
        }
        let working = GPULane.workingMemory(
            configuration, positionCount: workload.positionCount, stagingSlotCount: stagingSlotCount)
        return PlacementPlanner(
            shape: configuration.shape, budget: budget, working: working, hardware: profile,
            workload: workload, threadCount: threadCount)
    }

    private struct Report: Decodable {
        var profile: HardwareProfile
    }

    private static func profile(in file: FilePath) throws(EngineError) -> HardwareProfile {
        guard let data = try? Data(contentsOf: URL(filePath: file.string)) else {
            throw EngineError(
                .invalidOption, "\(file) cannot be read; give what tandem doctor --json printed")
        }
        guard let report = try? JSONDecoder().decode(Report.self, from: data), report.profile.isPlausible
        else {
            throw EngineError(
                .invalidOption, "\(file) has no bandwidths; give what tandem doctor --json printed")
        }
        return report.profile
    }
}

extension MemoryBudget {
    /// What may be used: what is free, up to the limits, without what the driver needs itself.
    init(free gpuFree: Int, gpuLimit: Int?, cpuLimit: Int?, cpuFree: Int, diskFree: Int) {
        self.init(
            gpuByteCount: max(0, min(gpuFree, gpuLimit ?? .max) - LaneLoader.reservedGPUByteCount),
            cpuByteCount: min(cpuFree, cpuLimit ?? .max), diskByteCount: diskFree)
    }
}
