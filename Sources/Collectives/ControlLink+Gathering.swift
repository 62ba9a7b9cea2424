/// How ranks learn what the others have to say, in few bytes: addresses, identifiers, what they use.
extension ControlLink {
    /// What each rank gives, in the order of ranks, on all of them.
    ///
    /// All ranks call it in the same order, each on the thread that sends or receives commands, before the first command or
    /// because of one.
    public func allGather(_ bytes: [UInt8]) throws(CollectiveError) -> [[UInt8]] {
        isConductor ? try gather(bytes) : try give(bytes)
    }

    private func gather(_ bytes: [UInt8]) throws(CollectiveError) -> [[UInt8]] {
        var all = [bytes]
        for peer in peers { all.append(try answer(of: peer, .reply)) }
        let message = Self.joined(all)
        for peer in peers { try tell(peer, .gathered, message) }
        return all
    }

    private func give(_ bytes: [UInt8]) throws(CollectiveError) -> [[UInt8]] {
        try tell(peers[0], .reply, bytes)
        guard let all = Self.parts(of: try answer(of: peers[0], .gathered)), all.count == place.size else {
            throw lost(peers[0])
        }
        return all
    }

    /// Says what this rank tells of itself when rank 0 asks; called on the thread that receives commands.
    public func answer(with statement: @escaping @Sendable () -> [UInt8]) {
        self.statement.withLock { $0 = statement }
    }

    /// What the other ranks say of themselves, in their order. Rank 0 asks, between commands; the others answer from
    /// `receive`.
    public func ask() throws(CollectiveError) -> [[UInt8]] {
        precondition(isConductor, "ControlLink: rank \(place.rank) asks the others")
        try awaitReady()
        for peer in peers { try tell(peer, .question, []) }
        var all: [[UInt8]] = []
        for peer in peers { all.append(try answer(of: peer, .reply)) }
        return all
    }

    private func tell(_ peer: Peer, _ kind: Frame.Kind, _ bytes: [UInt8]) throws(CollectiveError) {
        do throws(Socket.Failure) {
            try peer.commands.write(kind, bytes)
        } catch {
            throw lost(peer)
        }
    }

    /// Each part behind its byte count, 32 bits, lowest byte first.
    private static func joined(_ parts: [[UInt8]]) -> [UInt8] {
        parts.flatMap { part in withUnsafeBytes(of: UInt32(part.count).littleEndian, Array.init) + part }
    }

    private static func parts(of bytes: [UInt8]) -> [[UInt8]]? {
        var parts: [[UInt8]] = []
        var rest = bytes[...]
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let count = Int(rest.prefix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
            rest = rest.dropFirst(4)
            guard rest.count >= count else { return nil }
            parts.append(Array(rest.prefix(count)))
            rest = rest.dropFirst(count)
        }
        return parts
    }
}
