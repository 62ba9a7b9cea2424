import Glibc
import HostRuntime
import Synchronization

/// How the processes of a group stay together: rank 0's commands go over it, and each learns of the others' end, however
/// that comes.
///
/// A star: every rank is connected with rank 0, once for commands and once for beats and news of failures, which a thread of
/// its own reads. Results do not go over it; they have a `Communicator`.
///
/// Sendable, because sockets are set once, before any thread.
public final class ControlLink: CommandChannel, @unchecked Sendable {
    public struct Address: Sendable, Hashable, CustomStringConvertible {
        public var host: String
        /// 0 for any free one, where rank 0 listens.
        public var port: Int

        public init(host: String, port: Int) {
            self.host = host
            self.port = port
        }

        public var description: String { "\(host):\(port)" }
    }

    /// A named value that all ranks must have.
    public struct Agreement: Sendable, Hashable, Codable {
        public var name: String
        public var value: String

        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    public struct Limits: Sendable {
        /// How long ranks wait for each other at the start.
        public var meetSeconds = 30.0
        /// Between two signs of life.
        public var beatSeconds = 0.5
        /// A rank that gives no sign of life for so long is lost.
        public var silenceSeconds = 5.0
        /// A rank for which all others wait for so long, while it does nothing, holds them up for ever.
        public var stallSeconds = 8.0
        /// The same of a rank that is busy: it may be merely slow.
        public var patienceSeconds = 60.0
        /// All ranks wait for each other: what they exchange results with is at fault.
        public var jamSeconds = 30.0
        /// How long a rank may still be in a step when rank 0 has ended.
        public var leaveSeconds = 4.0

        public init() {}
    }

    /// Why the group cannot go on.
    public struct Failure: Sendable {
        /// Whether this rank is the one that says it.
        public var speaks: Bool
        public var sentence: String
    }

    /// Rank 0's place to meet, which the others may be told.
    public struct Listener: Sendable {
        public let address: Address
        public var port: Int { address.port }
        let socket: Socket

        /// - Parameter onAll: listens on all addresses of the machine, of which `address` is one, by the others' lights.
        public init(_ address: Address, onAll: Bool = false) throws(CollectiveError) {
            let (socket, port) = try Socket.listen(
                at: onAll ? Address(host: "0.0.0.0", port: address.port) : address)
            self.socket = socket
            self.address = Address(host: address.host, port: port)
        }
    }

    public let place: RankPlace
    /// All ranks and their machines.
    public let roster: Roster
    /// Of the other ranks in order, where this is rank 0; else rank 0 alone.
    let peers: [Peer]
    public let progress: GroupProgress
    private let limits: Limits
    private let onFailure: @Sendable (Failure) -> Void
    /// The link has ended, one way or the other.
    private let isOver = Atomic<Bool>(false)
    /// This rank has seen rank 0's end among its commands.
    private let hasLeft = Atomic<Bool>(false)
    /// All ranks wait for commands, or have: rank 0's view.
    private var areReady = false
    private var isReady = false
    private let watch: Mutex<Watch>
    /// What this rank says of itself when it is asked.
    let statement = Mutex<@Sendable () -> [UInt8]>({ [] })

    /// Looks for the next command, without sleeping, before it sleeps: some hundred microseconds.
    private static let polls = 500

    init(
        rank: Int, roster: Roster, peers: [Peer], progress: GroupProgress, limits: Limits,
        onFailure: @escaping @Sendable (Failure) -> Void
    ) {
        place = roster.place(of: rank)
        self.roster = roster
        self.peers = peers
        self.progress = progress
        self.limits = limits
        self.onFailure = onFailure
        watch = Mutex(Watch(peers, progress.state))
        for peer in peers { pthread_detach(startThread { [self] in listen(to: peer) }) }
        pthread_detach(startThread { [self] in beat() })
    }

    /// Another rank, as this one is connected with it.
    struct Peer: Sendable {
        let rank: Int
        let hostName: String
        let commands, news: Socket
    }

    var isConductor: Bool { place.rank == 0 }

    // MARK: Commands

    public func send(_ command: UnsafeRawBufferPointer) throws(CollectiveError) {
        precondition(isConductor, "ControlLink: rank \(place.rank) sends a command")
        try awaitReady()
        for peer in peers {
            do throws(Socket.Failure) {
                try peer.commands.write(.command, command)
            } catch {
                throw lost(peer)
            }
        }
    }

    /// Waits until all ranks have loaded their parts.
    func awaitReady() throws(CollectiveError) {
        if areReady { return }
        for peer in peers { _ = try answer(of: peer, .ready) }
        areReady = true
    }

    public func receive(into buffer: inout [UInt8]) throws(CollectiveError) -> Bool {
        let conductor = peers[0]
        do throws(Socket.Failure) {
            if !isReady {
                try conductor.commands.write(.ready)
                isReady = true
            }
            while true {
                let (kind, count) = try conductor.commands.readHeader(polls: Self.polls)
                switch kind {
                case .end:
                    hasLeft.store(true, ordering: .releasing)
                    return false
                case .question: try conductor.commands.write(.reply, statement.withLock(\.self)())
                default:
                    try conductor.commands.read(count, into: &buffer)
                    return true
                }
            }
        } catch {
            throw lost(conductor)
        }
    }

    func answer(of peer: Peer, _ kind: Frame.Kind) throws(CollectiveError) -> [UInt8] {
        do throws(Socket.Failure) {
            let (found, bytes) = try peer.commands.readFrame()
            if found == kind { return bytes }
        } catch {}
        throw lost(peer)
    }

    /// The thread that reads the news ends the process, and knows better why; this is what else is left to say.
    func lost(_ peer: Peer) -> CollectiveError {
        CollectiveError(.lostRank, "rank \(peer.rank) on \(peer.hostName) is gone")
    }

    // MARK: The end

    /// The orderly end, by rank 0: the others' `receive` returns false.
    public func end() {
        precondition(isConductor, "ControlLink: rank \(place.rank) ends the group")
        if isOver.exchange(true, ordering: .acquiringAndReleasing) { return }
        for peer in peers {
            try? peer.news.write(.end)
            peer.commands.writeIfIdle(.end)
        }
    }

    /// Tells all ranks that this one ends, and says why itself. On any thread, once.
    public func fail(_ sentence: String) {
        if isOver.exchange(true, ordering: .acquiringAndReleasing) { return }
        tellFailure(sentence)
    }

    private func tellFailure(_ sentence: String) {
        for peer in peers { try? peer.news.write(.failure, sentence) }
    }

    /// The group cannot go on.
    private func giveUp(_ failure: Failure) {
        if isOver.exchange(true, ordering: .acquiringAndReleasing) { return }
        // The rank at fault too: should it be there after all, it need not say that the others have gone.
        tellFailure(failure.sentence)
        // Whoever waits for a command or an answer is done waiting.
        for peer in peers { peer.commands.shutDown() }
        onFailure(failure)
    }

    // MARK: News

    private func listen(to peer: Peer) {
        do throws(Socket.Failure) {
            while true {
                let (kind, bytes) = try peer.news.readFrame()
                switch kind {
                case .beat:
                    guard bytes.count == 16 else { continue }
                    let words = [bytes[..<8], bytes[8...]].map {
                        $0.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                    }
                    watch.withLock {
                        $0.hear(of: peer.rank, GroupProgress.State(word: words[0]), nanoseconds: words[1])
                    }
                case .failure:
                    return giveUp(
                        Failure(speaks: false, sentence: String(decoding: bytes, as: UTF8.self)))
                case .stall:
                    return giveUp(Failure(speaks: true, sentence: String(decoding: bytes, as: UTF8.self)))
                case .end:
                    isOver.store(true, ordering: .releasing)
                    return leaveLate()
                default: return
                }
            }
        } catch {
            giveUp(
                Failure(
                    speaks: speaks(of: peer),
                    sentence:
                        "rank \(peer.rank) on \(peer.hostName) ended without a word (killed, or out of memory?): "
                        + "all ranks stop"))
        }
    }

    /// Rank 0 may have ended in the midst of a step, in which this rank would wait for it.
    private func leaveLate() {
        usleep(UInt32(limits.leaveSeconds * 1e6))
        if hasLeft.load(ordering: .acquiring) { return }
        onFailure(Failure(speaks: false, sentence: "rank 0 has ended"))
    }

    /// Whether this rank speaks for one that cannot: rank 0 does, and for rank 0, rank 1.
    private func speaks(of peer: Peer) -> Bool { isConductor || place.rank == 1 }

    // MARK: Signs of life

    private func beat() {
        while !isOver.load(ordering: .acquiring) {
            let state = progress.state
            let bytes = [state.word, GroupProgress.processNanoseconds].flatMap {
                withUnsafeBytes(of: $0.littleEndian, Array.init)
            }
            for peer in peers { try? peer.news.write(.beat, bytes) }
            usleep(UInt32(limits.beatSeconds * 1e6))
            if let finding = watch.withLock({ $0.look(own: progress.state, limits) }) { act(on: finding) }
        }
    }

    private func act(on finding: Watch.Finding) {
        switch finding {
        case .silence(let rank):
            let peer = peers.first { $0.rank == rank }!
            giveUp(
                Failure(
                    speaks: speaks(of: peer),
                    sentence:
                        "rank \(rank) on \(peer.hostName) has given no sign of life for \(limits.silenceSeconds.brief) s (stopped, "
                        + "or its machine is lost): all ranks stop"))
        case .stall(let rank, let meeting):
            // The others see this from where they wait: only rank 0 sees all.
            if !isConductor { return }
            let sentence =
                "rank \(rank) has not come to meeting \(meeting) of the ranks for \(limits.stallSeconds.brief) s, while all others "
                + "wait there: all ranks stop"
            let peer = peers.first { $0.rank == rank }
            try? peer?.news.write(.stall, sentence)
            giveUp(Failure(speaks: peer == nil, sentence: sentence))
        case .jam(let meeting):
            if !isConductor { return }
            giveUp(
                Failure(
                    speaks: true,
                    sentence:
                        "all ranks wait in meeting \(meeting) for \(limits.jamSeconds.brief) s and it does not end: look at "
                        + "the network between their machines, and at the library that they exchange results with"
                ))
        }
    }

    // MARK: For tests

    /// As if the process had been killed.
    func vanish() {
        isOver.store(true, ordering: .releasing)
        for peer in peers {
            peer.commands.shutDown()
            peer.news.shutDown()
        }
    }

    /// As if the process stood still.
    func fallSilent() { isOver.store(true, ordering: .releasing) }
}

extension Double {
    /// Without a fraction where there is none.
    var brief: String { Int(exactly: self).map(String.init) ?? "\(self)" }
}

/// What a rank knows of the others' signs of life.
private struct Watch {
    enum Finding {
        case silence(rank: Int)
        case stall(rank: Int, meeting: UInt64)
        case jam(meeting: UInt64)
    }

    private struct Seen {
        let rank: Int
        var state = GroupProgress.State(word: 0)
        var heard = ContinuousClock.now
        /// Since when the state is what it is.
        var since = ContinuousClock.now

        /// When it last used a processor for a fifth of the time or more.
        var busy = ContinuousClock.now
        private var nanoseconds: UInt64 = 0
        private var measured = ContinuousClock.now
        private static let busyShare = 0.2

        init(rank: Int, state: GroupProgress.State = GroupProgress.State(word: 0)) {
            self.rank = rank
            self.state = state
        }

        mutating func take(
            _ new: GroupProgress.State, nanoseconds: UInt64, _ now: ContinuousClock.Instant
        ) {
            heard = now
            if new != state { (state, since) = (new, now) }
            let used = Double(nanoseconds &- self.nanoseconds) / 1e9
            if used > Self.busyShare * (measured.duration(to: now) / .seconds(1)) { busy = now }
            (self.nanoseconds, measured) = (nanoseconds, now)
        }

        /// Whether it has not moved for so long: a while only where it does nothing.
        func standsStill(_ now: ContinuousClock.Instant, _ limits: ControlLink.Limits) -> Bool {
            let still = since.duration(to: now) / .seconds(1)
            let idle = busy.duration(to: now) / .seconds(1)
            return still > limits.patienceSeconds || min(still, idle) > limits.stallSeconds
        }
    }

    private var others: [Seen]
    private var own: Seen
    private var lastLook = ContinuousClock.now

    init(_ peers: [ControlLink.Peer], _ state: GroupProgress.State) {
        others = peers.map { Seen(rank: $0.rank) }
        own = Seen(rank: -1, state: state)
    }

    mutating func hear(of rank: Int, _ state: GroupProgress.State, nanoseconds: UInt64) {
        guard let index = others.firstIndex(where: { $0.rank == rank }) else { return }
        others[index].take(state, nanoseconds: nanoseconds, .now)
    }

    mutating func look(own state: GroupProgress.State, _ limits: ControlLink.Limits) -> Finding? {
        let now = ContinuousClock.now
        own.take(state, nanoseconds: GroupProgress.processNanoseconds, now)
        if lastLook.duration(to: now) > .seconds(limits.beatSeconds + limits.silenceSeconds / 2) {
            // It was this rank that stood still: what the others sent meanwhile is still to be read.
            for index in others.indices { others[index].heard = now }
        }
        lastLook = now
        if let silent = others.first(where: { $0.heard.duration(to: now) > .seconds(limits.silenceSeconds) })
        {
            return .silence(rank: silent.rank)
        }
        let all = others + [own]
        let meeting = all.map(\.state.meetingCount).max()!
        func haveStood(_ ranks: [Seen], _ seconds: Double) -> Bool {
            ranks.allSatisfy { $0.since.duration(to: now) > .seconds(seconds) }
        }
        let behind = all.filter { $0.state.meetingCount < meeting }
        if behind.isEmpty {
            return all.allSatisfy(\.state.isWaiting) && haveStood(all, limits.jamSeconds)
                ? .jam(meeting: meeting) : nil
        }
        guard haveStood(all.filter { $0.state.meetingCount == meeting }, limits.stallSeconds),
            behind.allSatisfy({ $0.standsStill(now, limits) }),
            let missing = behind.min(by: { $0.state.meetingCount < $1.state.meetingCount })
        else { return nil }
        return .stall(rank: missing.rank < 0 ? 0 : missing.rank, meeting: meeting)
    }
}
