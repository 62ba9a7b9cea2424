/// The processes that an MPI launcher started together.
///
/// Sendable, because MPI is asked to allow any thread, one at a time.
public final class MPICommunicator: Communicator, @unchecked Sendable {
    public let place: RankPlace
    private let library: MPILibrary
    private let progress: GroupProgress?
    private let clock: ReductionClock?

    /// The most values that a call is given: its counts are 32 bits wide.
    private static let mostCount = 1 << 30

    /// Starts MPI, once in a process.
    ///
    /// - Parameters:
    ///   - progress: told when the process waits for others.
    ///   - clock: told what all-reduces take.
    public init(progress: GroupProgress? = nil, clock: ReductionClock? = nil) throws(CollectiveError) {
        library = try MPILibrary.shared.get()
        self.progress = progress
        self.clock = clock
        var provided: Int32 = 0
        try library.check(
            library.initialize(nil, nil, MPILibrary.serializedThreads, &provided), "starting")
        if provided < MPILibrary.serializedThreads {
            throw CollectiveError(
                .library,
                "\(library.version) was built without support for threads: install one that has it")
        }
        // Without this it ends the process, with no word of ours.
        _ = library.setErrorHandler(library.world, library.errorsReturn)
        var (rank, size, localRank, localSize) = (Int32(0), Int32(1), Int32(0), Int32(1))
        try library.check(library.rank(library.world, &rank), "asking for the rank")
        try library.check(library.size(library.world, &size), "asking for the number of ranks")
        var local = 0
        try library.check(
            library.split(library.world, library.sharedMemoryType, rank, library.noInfo, &local),
            "looking for the ranks of this machine")
        // MPICH writes half of the word.
        if library.kind == .mpich { local = Int(truncatingIfNeeded: UInt32(truncatingIfNeeded: local)) }
        try library.check(library.rank(local, &localRank), "asking for the rank on this machine")
        try library.check(library.size(local, &localSize), "asking for the ranks of this machine")
        place = RankPlace(
            rank: Int(rank), size: Int(size), localRank: Int(localRank), localSize: Int(localSize))
    }

    /// Ends MPI: all ranks call it, and nothing else after it.
    public func finish() { _ = library.finalize() }

    /// Replaces `bytes` by those of rank 0.
    public func broadcast(_ bytes: UnsafeMutableRawBufferPointer) throws(CollectiveError) {
        progress?.enterMeeting()
        defer { progress?.leaveMeeting() }
        try library.check(
            library.broadcast(bytes.baseAddress!, Int32(bytes.count), library.byte, 0, library.world),
            "broadcasting")
    }

    public func allReduce(_ values: UnsafeMutablePointer<Float>, count: Int) throws(CollectiveError) {
        let start = ContinuousClock.now
        progress?.enterMeeting()
        defer {
            progress?.leaveMeeting()
            clock?.add(start.duration(to: .now))
        }
        var first = 0
        while first < count {
            let some = min(count - first, Self.mostCount)
            try library.check(
                library.allReduce(
                    library.inPlace, values + first, Int32(some), library.float, library.sum, library.world),
                "summing up the ranks' parts")
            first += some
        }
    }

    public func gather(
        _ values: UnsafePointer<Float>, counts: GatherCounts, to result: UnsafeMutablePointer<Float>?
    ) throws(CollectiveError) {
        precondition(counts.size == place.size, "MPICommunicator: \(counts.size) counts of \(place.size)")
        progress?.enterMeeting()
        defer { progress?.leaveMeeting() }
        try library.check(
            library.gather(
                values, Int32(counts.count(of: place.rank)), library.float, result, counts.counts,
                counts.offsets, library.float, 0, library.world), "gathering the logits")
    }
}
