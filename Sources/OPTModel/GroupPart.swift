import Collectives

/// What a lane that computes a part of a model must know of the whole: which part it is, and how to meet the others.
public struct GroupPart: Sendable {
    public let shard: ModelShard
    public let communicator: any Communicator
    /// The logits of each process for one row.
    let logitsCounts: GatherCounts

    public init(_ whole: OPTConfiguration, _ communicator: any Communicator) {
        let place = communicator.place
        self.communicator = communicator
        shard = ModelShard(whole, rank: place.rank, of: place.size)
        logitsCounts = GatherCounts(
            (0..<place.size).map { ModelShard(whole, rank: $0, of: place.size).tokens.count })
    }

    /// Whether this process gives logits and tokens to whoever asked for a step.
    var isConductor: Bool { communicator.place.rank == 0 }
}
