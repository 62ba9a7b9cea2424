import FoundationEssentials
import Glibc

/// How the ranks find each other, and see that they are to do the same.
extension ControlLink {
    /// Waits for the other ranks.
    public static func lead(
        _ listener: Listener, _ own: Greeting, progress: GroupProgress, limits: Limits = Limits(),
        onFailure: @escaping @Sendable (Failure) -> Void
    ) throws(CollectiveError) -> ControlLink {
        let guests = try Reception(listener: listener, own: own, limits: limits).receive()
        let connections = (1..<own.claim.size).map { rank in guests.filter { $0.greeting.claim.rank == rank }
        }
        let roster = Roster([own] + connections.map { $0[0].greeting })
        let peers = connections.map { pair in
            Peer(
                rank: pair[0].greeting.claim.rank, hostName: pair[0].greeting.machine.name,
                commands: pair.first { $0.greeting.isForCommands }!.socket,
                news: pair.first { !$0.greeting.isForCommands }!.socket)
        }
        let welcome = Array(try! JSONEncoder().encode(roster))
        for peer in peers {
            try? peer.news.write(.welcome, welcome)
            try? peer.commands.write(.welcome, welcome)
        }
        return ControlLink(
            rank: 0, roster: roster, peers: peers, progress: progress, limits: limits, onFailure: onFailure)
    }

    /// Joins rank 0.
    public static func follow(
        _ address: Address, _ greeting: Greeting, progress: GroupProgress, limits: Limits = Limits(),
        onFailure: @escaping @Sendable (Failure) -> Void
    ) throws(CollectiveError) -> ControlLink {
        let end = ContinuousClock.now + .seconds(limits.meetSeconds)
        let rank = greeting.claim.rank
        let news = try greet(greeting, address, until: end, limits)
        let commands: Socket
        do throws(CollectiveError) {
            commands = try greet(greeting.forCommands, address, until: end, limits)
        } catch {
            // Rank 0 may have sent this rank away at once.
            _ = try welcome(news, address, rank, seconds: 1)
            throw error
        }
        // Rank 0 waits for the others until its own time is up, and says so then.
        let seconds = limits.meetSeconds + limits.silenceSeconds
        let roster = try welcome(news, address, rank, seconds: seconds)
        _ = try welcome(commands, address, rank, seconds: seconds)
        return ControlLink(
            rank: rank, roster: roster,
            peers: [Peer(rank: 0, hostName: roster.machines[0].name, commands: commands, news: news)],
            progress: progress, limits: limits, onFailure: onFailure)
    }

    /// Connects with rank 0 and says who this is.
    private static func greet(
        _ greeting: Greeting, _ address: Address, until end: ContinuousClock.Instant, _ limits: Limits
    ) throws(CollectiveError) -> Socket {
        let socket = try reach(address, greeting.claim.rank, until: end, limits)
        do throws(Socket.Failure) {
            try greeting.write(to: socket)
            // Another program may take what it is sent and say nothing.
            guard try Greeting.readMagic(from: socket) else { throw .closed }
        } catch {
            throw CollectiveError(
                .address,
                "\(address) answers rank \(greeting.claim.rank), but is not Tandem: choose another --port")
        }
        return socket
    }

    /// Waits until all have come.
    private static func welcome(
        _ socket: Socket, _ address: Address, _ rank: Int, seconds: Double
    ) throws(CollectiveError) -> Roster {
        guard let (kind, bytes) = try? socket.readFrame(seconds: seconds) else {
            throw CollectiveError(
                .lostRank, "rank 0 at \(address) left before all ranks had come", isSaidElsewhere: rank != 1)
        }
        if kind == .welcome, let roster = try? JSONDecoder().decode(Roster.self, from: Data(bytes)) {
            return roster
        }
        let text = String(decoding: bytes, as: UTF8.self)
        throw CollectiveError(.disagreement, text, isSaidElsewhere: text.isEmpty)
    }

    /// Connects, as soon as somebody listens there.
    private static func reach(
        _ address: Address, _ rank: Int, until end: ContinuousClock.Instant, _ limits: Limits
    ) throws(CollectiveError) -> Socket {
        while true {
            let left = ContinuousClock.now.duration(to: end) / .seconds(1)
            if left <= 0 { break }
            if let socket = try Socket.connect(to: address, seconds: left) { return socket }
            usleep(50_000)
        }
        throw CollectiveError(
            .unreachable,
            "rank \(rank) found nobody at \(address) within \(limits.meetSeconds.brief) s: does rank 0 run there, and is "
                + "--head-ip an address of its machine?")
    }
}

/// Rank 0's side of the meeting.
private struct Reception {
    let listener: ControlLink.Listener
    let own: Greeting
    let limits: ControlLink.Limits

    struct Guest {
        let greeting: Greeting
        let socket: Socket
    }

    /// How long ranks that come are still told, after one was sent away.
    private static let dismissalSeconds = 1.0

    /// Two connections of each other rank, all of them agreed with.
    func receive() throws(CollectiveError) -> [Guest] {
        var end = ContinuousClock.now + .seconds(limits.meetSeconds)
        var guests: [Guest] = []
        var culprit: (rank: Int, sentence: String)?
        while guests.count < 2 * (own.claim.size - 1) {
            let left = ContinuousClock.now.duration(to: end) / .seconds(1)
            guard left > 0, let socket = listener.socket.accept(seconds: left) else { break }
            // Whatever else comes along is not for us.
            guard let greeting = Greeting.read(from: socket) else { continue }
            Greeting.magic.withUnsafeBytes { try? socket.write($0) }
            let guest = Guest(greeting: greeting, socket: socket)
            if culprit == nil, let objection = greeting.objection(of: own, others: guests.map(\.greeting)) {
                culprit = (greeting.claim.rank, objection)
                // Those that are on their way shall know, too, that another rank says it.
                end = min(end, .now + .seconds(Self.dismissalSeconds))
            }
            guests.append(guest)
        }
        if let culprit {
            for guest in guests {
                let isCulprit = guest.greeting.claim.rank == culprit.rank
                try? guest.socket.write(.refusal, isCulprit ? culprit.sentence : "")
            }
            throw CollectiveError(.disagreement, culprit.sentence, isSaidElsewhere: true)
        }
        if guests.count < 2 * (own.claim.size - 1) {
            for guest in guests { try? guest.socket.write(.refusal) }
            throw CollectiveError(.timeout, missing(guests))
        }
        return guests
    }

    private func missing(_ guests: [Guest]) -> String {
        let ranks = (1..<own.claim.size).filter { rank in
            guests.count { $0.greeting.claim.rank == rank } < 2
        }
        let names = ranks.map(String.init)
        let list =
            names.count == 1
            ? "rank \(names[0])"
            : "ranks \(names.dropLast().joined(separator: ", ")) and \(names.last!)"
        return
            "\(list) of \(own.claim.size) did not come to rank 0 at \(listener.address) within \(limits.meetSeconds.brief) s: do "
            + "they run, and can they reach that address?"
    }
}
