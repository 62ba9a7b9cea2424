import FoundationEssentials
import Glibc

/// What a rank says of itself when it meets rank 0.
public struct Greeting: Codable, Sendable {
    var claim: RankClaim
    var machine: Machine
    var programVersion: String
    var agreement: [ControlLink.Agreement]
    /// Each rank comes with two connections: one for commands, one for everything else.
    var isForCommands = false

    /// - Parameters:
    ///   - programVersion: all ranks must have the same.
    ///   - agreement: named values that must be the same on all ranks, in the same order.
    public init(
        _ claim: RankClaim, machine: Machine = .this, programVersion: String,
        agreement: [ControlLink.Agreement]
    ) {
        self.claim = claim
        self.machine = machine
        self.programVersion = programVersion
        self.agreement = agreement
    }

    /// The same for the other connection.
    var forCommands: Greeting {
        var other = self
        other.isForCommands = true
        return other
    }

    /// What stands in front of all: Tandem, and the version of what follows.
    static let magic: [UInt8] = Array("TANDEM\u{0}\u{2}".utf8)
    /// How long an answer may take that needs no other rank.
    private static let answerSeconds = 5.0

    func write(to socket: Socket) throws(Socket.Failure) {
        let result = Self.magic.withUnsafeBytes { magic in
            Result { () throws(Socket.Failure) in try socket.write(magic, hasMore: true) }
        }
        try result.get()
        let encoder = JSONEncoder()
        try socket.write(.greeting, Array(try! encoder.encode(self)))
    }

    /// Reads what came; nil from another program.
    static func read(from socket: Socket) -> Greeting? {
        guard (try? readMagic(from: socket)) == true,
            let (kind, bytes) = try? socket.readFrame(seconds: answerSeconds), kind == .greeting
        else { return nil }
        return try? JSONDecoder().decode(Greeting.self, from: Data(bytes))
    }

    /// Whether the other side speaks as we do.
    static func readMagic(from socket: Socket, seconds: Double = answerSeconds) throws(Socket.Failure) -> Bool
    {
        var magic = [UInt8](repeating: 0, count: Self.magic.count)
        let result = magic.withUnsafeMutableBytes { bytes in
            Result { () throws(Socket.Failure) in try socket.read(into: bytes, seconds: seconds) }
        }
        try result.get()
        return magic == Self.magic
    }

    /// Why this rank may not join those that are there, as it should say it itself; nil where it may.
    func objection(of conductor: Greeting, others: [Greeting]) -> String? {
        let rank = claim.rank
        let advice = "start all ranks with the same program and the same arguments"
        if programVersion != conductor.programVersion {
            return
                "rank \(rank) runs Tandem \(programVersion), and rank 0 \(conductor.programVersion): \(advice)"
        }
        if claim.size != conductor.claim.size {
            return
                "rank \(rank) is one of \(claim.size) processes, and rank 0 of \(conductor.claim.size): \(advice)"
        }
        if let other = others.first(where: { $0.claim.rank == rank && $0.isForCommands == isForCommands }) {
            return
                "two processes say that they are rank \(rank), on \(other.machine.name) and on \(machine.name): give each its "
                + "own --rank"
        }
        if !(1..<claim.size).contains(rank) {
            return "there is no rank \(rank) beside rank 0 of \(claim.size) processes: \(advice)"
        }
        if let localRank = claim.localRank,
            let other = ([conductor] + others).first(where: {
                $0.claim.rank != rank && $0.machine == machine && $0.claim.localRank == localRank
            })
        {
            return
                "ranks \(other.claim.rank) and \(rank) on \(machine.name) both have the local rank \(localRank): give each "
                + "its own --local-rank, or leave it out"
        }
        for (own, expected) in zip(agreement, conductor.agreement) where own != expected {
            return
                "rank \(rank) has \(own.name) \(own.value), and rank 0 \(expected.name) \(expected.value): \(advice)"
        }
        return agreement.count == conductor.agreement.count
            ? nil : "rank \(rank) was asked for something else than rank 0: \(advice)"
    }
}
