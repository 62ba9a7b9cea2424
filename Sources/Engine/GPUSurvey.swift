import CUDA
import Collectives
import FoundationEssentials
import Placement

/// What the processes of a group find of GPUs, each on its machine, as all of them know it.
struct GPUSurvey: Sendable {
    /// Of each rank.
    let findings: [Finding]
    private let place: RankPlace
    /// The ranks of this machine.
    private let neighbours: [Int]

    struct Finding: Sendable, Hashable, Codable {
        /// GPUs that the process sees; a launcher may show it one of several.
        var deviceCount = 0
        /// Of the first of them.
        var busID = ""
        /// Whether the machine's bandwidths are remembered there.
        var hasProfile = false
    }

    /// All processes call it at the same time.
    init(_ group: ProcessGroup) throws {
        var own = Finding()
        if let driver = try? CUDADriver.load(), let device = try? driver.device() {
            own = Finding(
                deviceCount: driver.deviceCount, busID: device.pciBusID,
                hasProfile: HardwareProfile.remembered() != nil)
        }
        let answers = try group.link.allGather(Array(try JSONEncoder().encode(own)))
        let machines = group.roster.machines
        self.init(
            answers.map { (try? JSONDecoder().decode(Finding.self, from: Data($0))) ?? Finding() },
            group.place,
            neighbours: machines.indices.filter { machines[$0] == machines[group.place.rank] })
    }

    init(_ findings: [Finding], _ place: RankPlace, neighbours: [Int]) {
        self.findings = findings
        self.place = place
        self.neighbours = neighbours
    }

    /// The number of this process's GPU among those that it sees: its local rank, or the only one where its launcher shows every
    /// process of the machine another.
    ///
    /// - Throws: `CollectiveError` where there are fewer GPUs than processes.
    func deviceIndex() throws(CollectiveError) -> Int {
        let here = neighbours.map { findings[$0] }
        if here.allSatisfy({ $0.deviceCount == 1 }) && Set(here.map(\.busID)).count == here.count { return 0 }
        let count = findings[place.rank].deviceCount
        if place.localRank < count { return place.localRank }
        throw CollectiveError(
            .disagreement,
            "rank \(place.rank) is number \(place.localRank + 1) of its machine, which has \(count) "
                + "\(count == 1 ? "GPU" : "GPUs"): start no more ranks there than it has GPUs, or give --device cpu"
        )
    }

    /// Whether the processes measure their machines now, all at the same time, as they will use them.
    var measuresMachines: Bool { !findings.allSatisfy(\.hasProfile) }
}
