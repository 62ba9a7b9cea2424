import Collectives
import Glibc
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

    public let place: RankPlace
    /// With what GPUs exchange their sums, and how.
    public let communicationDevice: CommunicationDevice
    public let allReduce: AllReduceChoice
    /// The name and version of what the ranks exchange their results with.
    public let libraryVersion: String
    /// The processors that this rank computes with.
    public let processorCount: Int
    let communicator: any Communicator
    let link: ControlLink
    private let mpi: MPICommunicator

    public var isConductor: Bool { place.rank == 0 }

    /// Joins the processes that an MPI launcher has started together.
    ///
    /// - Parameter onFailure: called once, on a thread of its own, where the group cannot go on; the process must end then.
    /// - Returns: nil where there is but one.
    /// - Throws: `CollectiveError`.
    public static func joinMPI(
        _ options: Options, onFailure: @escaping @Sendable (ControlLink.Failure) -> Void
    ) throws -> ProcessGroup? {
        let progress = GroupProgress()
        let mpi = try MPICommunicator(progress: progress)
        if mpi.place.size == 1 {
            mpi.finish()
            return nil
        }
        return try ProcessGroup(mpi, progress, options, onFailure)
    }

    private init(
        _ mpi: MPICommunicator, _ progress: GroupProgress, _ options: Options,
        _ onFailure: @escaping @Sendable (ControlLink.Failure) -> Void
    ) throws {
        self.mpi = mpi
        communicationDevice = options.communicationDevice
        allReduce = options.allReduce
        communicator = mpi
        place = mpi.place
        libraryVersion = mpi.libraryVersion
        processorCount = ProcessorShare.take(place.localRank, of: place.localSize)
        var limits = ControlLink.Limits()
        limits.meetSeconds = options.meetSeconds
        var meeting = MeetingPoint(host: "", port: 0)
        if place.rank == 0 {
            // Where all are on one machine nobody else needs to see it.
            let host =
                options.headAddress ?? (place.localSize == place.size ? "127.0.0.1" : Self.hostName)
            let listener = try ControlLink.Listener(ControlLink.Address(host: host, port: options.port ?? 0))
            meeting = MeetingPoint(host: host, port: listener.port)
            try meeting.broadcast(mpi)
            link = try ControlLink.lead(
                listener, place: place, agreement: options.agreement, hostName: Self.hostName,
                programVersion: options.programVersion, progress: progress, limits: limits,
                onFailure: onFailure)
        } else {
            try meeting.broadcast(mpi)
            link = try ControlLink.follow(
                ControlLink.Address(host: meeting.host, port: meeting.port), place: place,
                agreement: options.agreement, hostName: Self.hostName,
                programVersion: options.programVersion, progress: progress, limits: limits,
                onFailure: onFailure)
        }
    }

    /// Tells the others that this rank has failed. The caller says why, and ends the process.
    public func fail(_ sentence: String) { link.fail(sentence) }

    /// The orderly end: of all ranks, where this is rank 0.
    public func end() {
        if isConductor { link.end() }
        mpi.finish()
    }

    /// The end where this process does not wait for the others' end.
    public func leave() { if isConductor { link.end() } }

    private static var hostName: String {
        var name = [CChar](repeating: 0, count: 256)
        gethostname(&name, name.count - 1)
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Where rank 0 listens, as all ranks learn it.
private struct MeetingPoint {
    var host: String
    var port: Int

    /// Replaces it by rank 0's.
    mutating func broadcast(_ mpi: MPICommunicator) throws(CollectiveError) {
        // A name has at most 253 bytes.
        var bytes = [UInt8](repeating: 0, count: 512)
        let text = "\(port) \(host)"
        bytes.replaceSubrange(0..<text.utf8.count, with: text.utf8)
        do {
            try bytes.withUnsafeMutableBytes { try mpi.broadcast($0) }
        } catch {
            throw error as! CollectiveError
        }
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
        try await leader.perform { [self] in
            try FollowingRank(decoder.lane, channel: group.link).run()
        }
    }
}
