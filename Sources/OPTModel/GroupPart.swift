import Collectives

/// What a lane that computes a part of a model must know of the whole: which part it is, and how to meet the others.
public struct GroupPart: Sendable {
    public let shard: ModelShard
    public let place: RankPlace
    /// By way of CPU memory; nil only where GPUs compute and exchange without it.
    let communicator: (any Communicator)?
    /// Told when a step begins in which GPUs meet by themselves.
    let progress: GroupProgress?
    /// From GPU to GPU; nil where sums go by way of CPU memory.
    let gpus: GPUExchange?
    /// The logits of each process for one row.
    let logitsCounts: GatherCounts

    public init(_ whole: OPTConfiguration, _ communicator: any Communicator) {
        self.init(whole, communicator.place, communicator: communicator, gpus: nil)
    }

    public init(
        _ whole: OPTConfiguration, _ place: RankPlace, gpus: GPUExchange, progress: GroupProgress
    ) {
        self.init(whole, place, communicator: nil, gpus: gpus, progress: progress)
    }

    /// - Parameter gpus: goes before `communicator`, where both are given.
    init(
        _ whole: OPTConfiguration, _ place: RankPlace, communicator: (any Communicator)?, gpus: GPUExchange?,
        progress: GroupProgress? = nil
    ) {
        precondition(communicator != nil || gpus != nil, "GroupPart: nothing to exchange by")
        self.place = place
        self.communicator = communicator
        self.gpus = gpus
        self.progress = progress
        shard = ModelShard(whole, rank: place.rank, of: place.size)
        logitsCounts = GatherCounts(
            (0..<place.size).map { ModelShard(whole, rank: $0, of: place.size).tokens.count })
    }

    /// Whether this process gives logits and tokens to whoever asked for a step.
    var isConductor: Bool { place.rank == 0 }
}
