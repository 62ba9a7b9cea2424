/// Where a process stands in its group.
public struct RankPlace: Sendable, Hashable, Codable {
    public var rank: Int
    /// The processes of the group.
    public var size: Int
    /// Which of its machine's GPUs is the process's; no two of a machine have the same.
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

/// What a process says of its place before it has met the others.
public struct RankClaim: Sendable, Hashable, Codable {
    public var rank: Int
    public var size: Int
    /// nil for the least that no process of the same machine has claimed.
    public var localRank: Int?

    public init(rank: Int, size: Int, localRank: Int? = nil) {
        self.rank = rank
        self.size = size
        self.localRank = localRank
    }
}
