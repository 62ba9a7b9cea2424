/// Where a process stands in its group.
public struct RankPlace: Sendable, Hashable, Codable {
    public var rank: Int
    /// The processes of the group.
    public var size: Int
    /// The number among those of the same machine.
    public var localRank: Int
    /// The processes of the group on the same machine.
    public var localSize: Int

    public init(rank: Int, size: Int, localRank: Int, localSize: Int) {
        self.rank = rank
        self.size = size
        self.localRank = localRank
        self.localSize = localSize
    }
}
