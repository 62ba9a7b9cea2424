import OPTModel
import Placement

/// Where a published model's weights and cache have room on a machine.
public struct ModelFit: Sendable, Hashable, Codable {
    /// The slowest memory that is needed.
    public enum Place: String, Sendable, Codable {
        case gpu
        case cpuMemory
        case disk
        /// It does not fit at all.
        case nowhere
    }

    /// Such as "opt-6.7b".
    public var model: String
    public var place: Place
    /// The weights' shares, with as much on the GPU as fits; 0 where it does not fit.
    public var gpuPercent: Double
    public var cpuPercent: Double
    public var diskPercent: Double

    /// On a machine with a GPU, for one sequence as long as the model knows.
    init(_ configuration: OPTConfiguration, in budget: MemoryBudget) {
        let working = GPULane.workingMemory(
            configuration, positionCount: configuration.maximumPositions,
            stagingSlotCount: Engine.Options().stagingSlotCount)
        guard let placement = try? Placement.fitting(configuration.shape, budget, working) else {
            self.init(configuration.name, .nowhere, gpu: 0, cpu: 0, disk: 0)
            return
        }
        let counts = Tier.allCases.map { tier in
            LayerKind.allCases.reduce(0) { $0 + placement.weightByteCount($1, on: tier) }
        }
        let demand = MemoryDemand(placement, working)
        let total = Double(counts.reduce(0, +))
        let place: Place =
            demand.byteCount(on: .disk) > 0 ? .disk : demand.byteCount(on: .cpu) > 0 ? .cpuMemory : .gpu
        self.init(
            configuration.name, place, gpu: 100 * Double(counts[0]) / total,
            cpu: 100 * Double(counts[1]) / total, disk: 100 * Double(counts[2]) / total)
    }

    /// On a machine without a GPU: all of it in CPU memory.
    init(_ configuration: OPTConfiguration, inCPUMemory byteCount: Int) {
        let fits = OPTWeights.byteCount(configuration) <= byteCount
        self.init(configuration.name, fits ? .cpuMemory : .nowhere, gpu: 0, cpu: fits ? 100 : 0, disk: 0)
    }

    private init(_ model: String, _ place: Place, gpu: Double, cpu: Double, disk: Double) {
        self.model = model
        self.place = place
        gpuPercent = gpu
        cpuPercent = cpu
        diskPercent = disk
    }

    /// The published sizes, smallest first.
    static var published: [OPTConfiguration] {
        OPTConfiguration.publishedSizes.compactMap { OPTConfiguration(publishedModel: "opt-\($0)") }
    }
}
