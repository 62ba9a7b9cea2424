import FoundationEssentials
import Glibc

/// A machine, as ranks tell theirs from others'.
public struct Machine: Sendable, Hashable, Codable {
    public var name: String
    /// What the running system calls itself: two machines may have the same name.
    public var bootID: String

    public init(name: String, bootID: String) {
        self.name = name
        self.bootID = bootID
    }

    /// The one that this process runs on.
    public static var this: Machine {
        var name = [CChar](repeating: 0, count: 256)
        gethostname(&name, name.count - 1)
        let bootID = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        return Machine(
            name: String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self),
            bootID: bootID ?? "")
    }
}

/// The ranks of a group and their machines, as rank 0 tells them to all when all have come.
public struct Roster: Sendable, Hashable, Codable {
    /// In the order of ranks.
    public let machines: [Machine]
    private let localRanks: [Int]

    /// - Parameter greetings: of all ranks, in their order, no two with the same local rank on the same machine.
    init(_ greetings: [Greeting]) {
        machines = greetings.map(\.machine)
        var taken: [Machine: Set<Int>] = [:]
        for greeting in greetings {
            if let localRank = greeting.claim.localRank {
                taken[greeting.machine, default: []].insert(localRank)
            }
        }
        localRanks = greetings.map { greeting in
            if let localRank = greeting.claim.localRank { return localRank }
            let localRank = (0...).first { taken[greeting.machine]?.contains($0) != true }!
            taken[greeting.machine, default: []].insert(localRank)
            return localRank
        }
    }

    public func place(of rank: Int) -> RankPlace {
        RankPlace(
            rank: rank, size: machines.count, localRank: localRanks[rank],
            localSize: machines.count { $0 == machines[rank] })
    }

    /// How many ranks of the same machine stand in front of this one.
    public func localIndex(of rank: Int) -> Int { machines[..<rank].count { $0 == machines[rank] } }
}
