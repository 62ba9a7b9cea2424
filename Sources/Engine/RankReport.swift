import Collectives
import FoundationEssentials
import OPTModel

/// What a process of a group has of a model and of its machine.
public struct RankReport: Sendable, Hashable, Codable {
    public var place: RankPlace
    public var hostName: String
    public var processorCount: Int
    /// nil where the CPU computes.
    public var gpuName: String?
    public var weightByteCount: Int
    /// nil where the system does not tell.
    public var peakMemoryByteCount: Int?
    /// What the process's GPU has in use, by this process and others; nil where the CPU computes.
    public var gpuMemoryByteCount: Int?

    var encoded: [UInt8] { (try? JSONEncoder().encode(self)).map(Array.init) ?? [] }

    init?(_ bytes: [UInt8]) {
        guard let report = try? JSONDecoder().decode(RankReport.self, from: Data(bytes)) else { return nil }
        self = report
    }

    init(_ engine: Engine, _ group: ProcessGroup) {
        place = group.place
        hostName = group.roster.machines[place.rank].name
        processorCount = group.processorCount
        gpuName = engine.gpuName
        weightByteCount = engine.weightByteCount
        peakMemoryByteCount = HostMemory.peakResidentByteCount
        gpuMemoryByteCount = engine.usedGPUByteCount
    }
}

extension Engine {
    /// The part of the model that this process computes; the whole where it is alone.
    var partConfiguration: OPTConfiguration { group.part(of: configuration) }

    /// What this process has; nil where it is alone.
    public var rankReport: RankReport? { group.map { RankReport(self, $0) } }

    /// What every process has, in the order of ranks, asked by rank 0; empty where there is but one.
    public func rankReports() async throws -> [RankReport] {
        guard let group, let own = rankReport else { return [] }
        let others = try await leader.perform { try group.link.ask() }
        return [own] + others.compactMap(RankReport.init)
    }

    /// What a sum over all processes costs on their GPUs.
    public struct SumCost: Sendable, Hashable, Codable {
        public var byteCount: Int
        public var seconds: Double
        /// The sums of a decode step.
        public var countPerStep: Int
        /// How it goes, in words.
        public var way: String
    }

    /// One sum of a decode step of so many sequences, measured alone; nil where sums go by way of CPU memory, and where there
    /// is but one process.
    public func sumCost(batchSize: Int) async throws -> SumCost? {
        // More sequences take several steps.
        let rowCount = min(batchSize, decoder.lane.segmentCapacity)
        guard let lane = decoder.lane as? ConductingLane, let way = gpuLane?.sumsWay(rowCount: rowCount)
        else {
            return nil
        }
        guard let seconds = try await leader.perform({ try lane.measureSums(rowCount: rowCount) }) else {
            return nil
        }
        return SumCost(
            byteCount: rowCount * configuration.hiddenSize * 4, seconds: seconds,
            countPerStep: 2 * configuration.layerCount + 1, way: way)
    }
}
