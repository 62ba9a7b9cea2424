import Collectives
import HostRuntime
import OPTModel

/// The processes that compute a model together, each with a part of it, as one of them sees it.
///
/// Rank 0 conducts: it alone has sessions, chooses tokens and prints. The others do their part of what it says
/// (`Engine.follow`).
public final class ProcessGroup: Sendable {
    public struct Options: Sendable {
        /// Where rank 0 listens; nil for an address that the ranks agree on.
        public var headAddress: String?
        /// Rank 0 listens on all addresses of its machine: `headAddress` is its name by the others' lights, and may mean another
        /// address there.
        public var listensOnAll = false
        /// nil for any free one.
        public var port: Int?
        /// Named values that must be the same on all ranks, such as the model.
        public var agreement: [ControlLink.Agreement] = []
        /// How long ranks wait for each other at the start.
        public var meetSeconds = 30.0
        /// With what GPUs exchange their sums, and how.
        public var communicationDevice = CommunicationDevice.gpu
        public var allReduce = AllReduceChoice.auto
        /// All ranks must run the same program.
        public var programVersion: String

        public init(programVersion: String) { self.programVersion = programVersion }
    }

    /// With what GPUs exchange their sums, and how.
    public let communicationDevice: CommunicationDevice
    public let allReduce: AllReduceChoice
    /// The processors that this rank computes with.
    public let processorCount: Int
    /// What this process's all-reduces take, where somebody measures it.
    public let reductionClock: ReductionClock
    let link: ControlLink
    private let mpi: MPICommunicator?

    public var place: RankPlace { link.place }
    /// All ranks and their machines.
    public var roster: Roster { link.roster }
    public var isConductor: Bool { place.rank == 0 }

    /// What the ranks exchange what they have in CPU memory with; nil where MPI did not start them.
    var communicator: (any Communicator)? { mpi }

    /// The same for ranks that compute on CPUs, which cannot do without.
    var hostCommunicator: any Communicator {
        get throws(CollectiveError) {
            if let mpi { return mpi }
            throw CollectiveError(
                .missingLibrary,
                "processes that compute on CPUs exchange their sums by MPI: start them with mpirun and give --use-mpi",
                isSaidElsewhere: !isConductor)
        }
    }

    /// Joins the processes that an MPI launcher has started together.
    ///
    /// - Parameter onFailure: called once, on a thread of its own, where the group cannot go on; the process must end then.
    /// - Returns: nil where there is but one.
    /// - Throws: `CollectiveError`.
    public static func joinMPI(
        _ options: Options, onFailure: @escaping @Sendable (ControlLink.Failure) -> Void
    ) throws -> ProcessGroup? {
        let progress = GroupProgress()
        let clock = ReductionClock()
        let mpi = try MPICommunicator(progress: progress, clock: clock)
        if mpi.place.size == 1 {
            mpi.finish()
            return nil
        }
        // Where all are on one machine nobody else needs to see it.
        let isAlone = mpi.place.localSize == mpi.place.size
        let host = options.headAddress ?? (isAlone ? "127.0.0.1" : Machine.this.name)
        var meeting = Meeting(
            options, RankClaim(rank: mpi.place.rank, size: mpi.place.size, localRank: mpi.place.localRank),
            ControlLink.Address(host: host, port: options.port ?? 0), progress)
        // The machine's own name often stands for an address that no other machine reaches.
        if mpi.place.rank == 0 { try meeting.listen(onAll: options.headAddress == nil && !isAlone) }
        try meeting.address.broadcast(mpi)
        return ProcessGroup(try meeting.join(onFailure), options, mpi, clock)
    }

    /// Joins processes of which each was told its place.
    ///
    /// Parameters, result and errors are those of `joinMPI`; `options` must have address and port.
    public static func joinRanks(
        _ claim: RankClaim, _ options: Options,
        onFailure: @escaping @Sendable (ControlLink.Failure) -> Void
    ) throws -> ProcessGroup? {
        if claim.size == 1 { return nil }
        guard let host = options.headAddress, let port = options.port else {
            preconditionFailure("ProcessGroup: ranks that MPI did not start must know where they meet")
        }
        var meeting = Meeting(
            options, claim, ControlLink.Address(host: host, port: port), GroupProgress())
        if claim.rank == 0 { try meeting.listen(onAll: options.listensOnAll) }
        return ProcessGroup(try meeting.join(onFailure), options, nil, ReductionClock())
    }

    private init(
        _ link: ControlLink, _ options: Options, _ mpi: MPICommunicator?, _ clock: ReductionClock
    ) {
        self.link = link
        self.mpi = mpi
        communicationDevice = options.communicationDevice
        allReduce = options.allReduce
        reductionClock = clock
        processorCount = ProcessorShare.take(
            link.roster.localIndex(of: link.place.rank), of: link.place.localSize)
    }

    /// Tells the others that this rank has failed. The caller says why, and ends the process.
    public func fail(_ sentence: String) { link.fail(sentence) }

    /// The orderly end: of all ranks, where this is rank 0.
    public func end() {
        if isConductor { link.end() }
        mpi?.finish()
    }

    /// The end where this process does not wait for the others' end.
    public func leave() { if isConductor { link.end() } }
}

/// How a process comes to its group.
private struct Meeting {
    let greeting: Greeting
    let progress: GroupProgress
    var limits = ControlLink.Limits()
    /// Where rank 0 listens, or shall.
    var address: ControlLink.Address
    private var listener: ControlLink.Listener?

    init(
        _ options: ProcessGroup.Options, _ claim: RankClaim, _ address: ControlLink.Address,
        _ progress: GroupProgress
    ) {
        greeting = Greeting(claim, programVersion: options.programVersion, agreement: options.agreement)
        limits.meetSeconds = options.meetSeconds
        self.address = address
        self.progress = progress
    }

    /// Rank 0 takes its port.
    mutating func listen(onAll: Bool = false) throws(CollectiveError) {
        let listener = try ControlLink.Listener(address, onAll: onAll)
        address = listener.address
        self.listener = listener
    }

    func join(_ onFailure: @escaping @Sendable (ControlLink.Failure) -> Void) throws(CollectiveError)
        -> ControlLink
    {
        if let listener {
            return try ControlLink.lead(
                listener, greeting, progress: progress, limits: limits, onFailure: onFailure)
        }
        return try ControlLink.follow(
            address, greeting, progress: progress, limits: limits, onFailure: onFailure)
    }
}

extension ControlLink.Address {
    /// Replaces it by rank 0's.
    fileprivate mutating func broadcast(_ mpi: MPICommunicator) throws {
        // A name has at most 253 bytes.
        var bytes = [UInt8](repeating: 0, count: 512)
        let text = "\(port) \(host)"
        bytes.replaceSubrange(0..<text.utf8.count, with: text.utf8)
        try bytes.withUnsafeMutableBytes { try mpi.broadcast($0) }
        let words = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            .split(separator: " ", maxSplits: 1)
        port = Int(words[0])!
        host = String(words[1])
    }
}

extension Engine {
    /// Does this rank's part of what rank 0 says, until rank 0 ends.
    public func follow() async throws {
        guard let group, !group.isConductor else { return }
        group.link.answer { [self] in rankReport?.encoded ?? [] }
        defer { group.link.answer { [] } }
        try await leader.perform { [self] in
            try FollowingRank(decoder.lane, channel: group.link).run()
        }
    }
}
