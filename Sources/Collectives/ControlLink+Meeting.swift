import Glibc

/// How the ranks find each other, and see that they are to do the same.
extension ControlLink {
    /// Waits for the other ranks.
    public static func lead(
        _ listener: Listener, place: RankPlace, agreement: [Agreement], hostName: String,
        programVersion: String, progress: GroupProgress, limits: Limits = Limits(),
        onFailure: @escaping @Sendable (Failure) -> Void
    ) throws(CollectiveError) -> ControlLink {
        let own = Greeting(
            place: place, hostName: hostName, programVersion: programVersion, agreement: agreement,
            isForCommands: false)
        let guests = try Reception(listener: listener, own: own, limits: limits).receive()
        let peers = (1..<place.size).map { rank in
            let connections = guests.filter { $0.greeting.place.rank == rank }
            return Peer(
                rank: rank, hostName: connections[0].greeting.hostName,
                commands: connections.first { $0.greeting.isForCommands }!.socket,
                news: connections.first { !$0.greeting.isForCommands }!.socket)
        }
        for peer in peers {
            try? peer.news.write(.welcome, hostName)
            try? peer.commands.write(.welcome, hostName)
        }
        return ControlLink(
            place: place, peers: peers, progress: progress, limits: limits, onFailure: onFailure)
    }

    /// Joins rank 0.
    public static func follow(
        _ address: Address, place: RankPlace, agreement: [Agreement], hostName: String,
        programVersion: String, progress: GroupProgress, limits: Limits = Limits(),
        onFailure: @escaping @Sendable (Failure) -> Void
    ) throws(CollectiveError) -> ControlLink {
        let end = ContinuousClock.now + .seconds(limits.meetSeconds)
        let greeting = Greeting(
            place: place, hostName: hostName, programVersion: programVersion, agreement: agreement,
            isForCommands: false)
        let news = try greet(greeting, address, until: end, limits)
        let commands: Socket
        do throws(CollectiveError) {
            commands = try greet(greeting.forCommands, address, until: end, limits)
        } catch {
            // Rank 0 may have sent this rank away at once.
            _ = try welcome(news, address, place, seconds: 1)
            throw error
        }
        // Rank 0 waits for the others until its own time is up, and says so then.
        let seconds = limits.meetSeconds + limits.silenceSeconds
        let conductorName = try welcome(news, address, place, seconds: seconds)
        _ = try welcome(commands, address, place, seconds: seconds)
        return ControlLink(
            place: place,
            peers: [Peer(rank: 0, hostName: conductorName, commands: commands, news: news)],
            progress: progress, limits: limits, onFailure: onFailure)
    }

    /// Connects with rank 0 and says who this is.
    private static func greet(
        _ greeting: Greeting, _ address: Address, until end: ContinuousClock.Instant, _ limits: Limits
    ) throws(CollectiveError) -> Socket {
        let socket = try reach(address, greeting.place, until: end, limits)
        do throws(Socket.Failure) {
            try greeting.write(to: socket)
            // Another program may take what it is sent and say nothing.
            guard try Greeting.readMagic(from: socket) else { throw .closed }
        } catch {
            throw CollectiveError(
                .address,
                "\(address) answers rank \(greeting.place.rank), but is not Tandem: choose another --port")
        }
        return socket
    }

    /// Waits until all have come; the name of rank 0's machine.
    private static func welcome(
        _ socket: Socket, _ address: Address, _ place: RankPlace, seconds: Double
    ) throws(CollectiveError) -> String {
        guard let (kind, bytes) = try? socket.readFrame(seconds: seconds) else {
            throw CollectiveError(
                .lostRank, "rank 0 at \(address) left before all ranks had come",
                isSaidElsewhere: place.rank != 1)
        }
        let text = String(decoding: bytes, as: UTF8.self)
        if kind != .welcome {
            throw CollectiveError(.disagreement, text, isSaidElsewhere: text.isEmpty)
        }
        return text
    }

    /// Connects, as soon as somebody listens there.
    private static func reach(
        _ address: Address, _ place: RankPlace, until end: ContinuousClock.Instant, _ limits: Limits
    ) throws(CollectiveError) -> Socket {
        while true {
            let left = ContinuousClock.now.duration(to: end) / .seconds(1)
            if left <= 0 { break }
            if let socket = try Socket.connect(to: address, seconds: left) { return socket }
            usleep(50_000)
        }
        throw CollectiveError(
            .unreachable,
            "rank \(place.rank) found nobody at \(address) within \(limits.meetSeconds) s: does rank 0 run there, and is "
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
        while guests.count < 2 * (own.place.size - 1) {
            let left = ContinuousClock.now.duration(to: end) / .seconds(1)
            guard left > 0, let socket = listener.socket.accept(seconds: left) else { break }
            // Whatever else comes along is not for us.
            guard let greeting = Greeting.read(from: socket) else { continue }
            Greeting.magic.withUnsafeBytes { try? socket.write($0) }
            let guest = Guest(greeting: greeting, socket: socket)
            if culprit == nil, let objection = greeting.objection(of: own, others: guests.map(\.greeting)) {
                culprit = (greeting.place.rank, objection)
                // Those that are on their way shall know, too, that another rank says it.
                end = min(end, .now + .seconds(Self.dismissalSeconds))
            }
            guests.append(guest)
        }
        if let culprit {
            for guest in guests {
                let isCulprit = guest.greeting.place.rank == culprit.rank
                try? guest.socket.write(.refusal, isCulprit ? culprit.sentence : "")
            }
            throw CollectiveError(.disagreement, culprit.sentence, isSaidElsewhere: true)
        }
        if guests.count < 2 * (own.place.size - 1) {
            for guest in guests { try? guest.socket.write(.refusal) }
            throw CollectiveError(.timeout, missing(guests))
        }
        return guests
    }

    private func missing(_ guests: [Guest]) -> String {
        let ranks = (1..<own.place.size).filter { rank in
            guests.count { $0.greeting.place.rank == rank } < 2
        }
        let names = ranks.map(String.init)
        let list =
            names.count == 1
            ? "rank \(names[0])"
            : "ranks \(names.dropLast().joined(separator: ", ")) and \(names.last!)"
        return
            "\(list) of \(own.place.size) did not come to rank 0 at \(listener.address) within \(limits.meetSeconds) s: do "
            + "they run, and can they reach that address?"
    }
}
