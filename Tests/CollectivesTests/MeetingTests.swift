import Glibc
import HostRuntime
import Testing

@testable import Collectives

/// How ranks find each other, and who is sent away.
@Suite(.serialized) struct MeetingTests {
    private static let quick = {
        var limits = ControlLink.Limits()
        limits.meetSeconds = 1
        return limits
    }()

    @Test(arguments: [2, 3, 4, 9]) func `all ranks learn where all are`(size: Int) throws {
        // Every third one on the same machine.
        let ranks = try LoopbackRanks(size) { rank in
            LoopbackRanks.greeting(RankClaim(rank: rank, size: size), machine: "machine \(rank % 3)")
        }
        defer { ranks.vanish() }
        #expect(ranks.errors.allSatisfy { $0 == nil }, "\(ranks.errors)")
        for rank in 0..<size {
            let link = try #require(ranks.links[rank])
            #expect(
                link.place
                    == RankPlace(
                        rank: rank, size: size, localRank: rank / 3,
                        localSize: (0..<size).count { $0 % 3 == rank % 3 }))
            #expect(link.roster == ranks.links[0]!.roster)
            #expect(link.roster.machines.map(\.name) == (0..<size).map { "machine \($0 % 3)" })
        }
    }

    @Test func `a local rank that was claimed is kept, the others get what is free`() {
        let claims: [(machine: String, localRank: Int?)] = [
            ("a", nil), ("a", 0), ("b", 3), ("a", nil), ("b", nil), ("a", 1),
        ]
        let roster = Roster(
            claims.enumerated().map { rank, claim in
                LoopbackRanks.greeting(
                    RankClaim(rank: rank, size: claims.count, localRank: claim.localRank),
                    machine: claim.machine)
            })
        #expect((0..<claims.count).map { roster.place(of: $0).localRank } == [2, 0, 3, 3, 0, 1])
        #expect((0..<claims.count).map { roster.place(of: $0).localSize } == [4, 4, 2, 4, 2, 4])
        #expect((0..<claims.count).map { roster.localIndex(of: $0) } == [0, 1, 0, 2, 1, 3])
    }

    enum Disagreement: CaseIterable {
        case model, version, size, rank, localRank, outside

        func greeting(_ rank: Int) -> Greeting {
            let claim = RankClaim(rank: rank, size: 3, localRank: rank)
            guard rank == 2 else { return LoopbackRanks.greeting(claim) }
            return switch self {
            case .model: LoopbackRanks.greeting(claim, model: "facebook/opt-125m")
            case .version: LoopbackRanks.greeting(claim, version: "2")
            case .size: LoopbackRanks.greeting(RankClaim(rank: 2, size: 4, localRank: 2))
            case .rank: LoopbackRanks.greeting(RankClaim(rank: 1, size: 3, localRank: 2))
            case .localRank: LoopbackRanks.greeting(RankClaim(rank: 2, size: 3, localRank: 0))
            case .outside: LoopbackRanks.greeting(RankClaim(rank: 3, size: 3, localRank: 2))
            }
        }

        var sentence: String {
            switch self {
            case .model: "rank 2 has --model facebook/opt-125m, and rank 0 --model storybook"
            case .version: "rank 2 runs Tandem 2, and rank 0 1"
            case .size: "rank 2 is one of 4 processes, and rank 0 of 3"
            case .rank: "two processes say that they are rank 1"
            case .localRank: "ranks 0 and 2 on here both have the local rank 0"
            case .outside: "there is no rank 3 beside rank 0 of 3 processes"
            }
        }
    }

    @Test(arguments: Disagreement.allCases)
    func `a rank that disagrees says so, and no other does`(_ disagreement: Disagreement) throws {
        let ranks = try LoopbackRanks(3) { disagreement.greeting($0) }
        let errors = ranks.errors.compactMap(\.self)
        #expect(errors.count == 3 && errors.allSatisfy { $0.code == .disagreement || $0.code == .lostRank })
        let said = errors.filter { !$0.isSaidElsewhere && $0.code == .disagreement }
        // Which of two came first is not known.
        #expect(said.count == 1 || disagreement == .rank, "\(errors)")
        #expect(said.allSatisfy { $0.description.hasPrefix(disagreement.sentence) }, "\(errors)")
    }

    @Test func `rank 0 says who did not come, and the others are silent`() throws {
        let ranks = try LoopbackRanks(4, comers: [0, 2], limits: Self.quick) {
            LoopbackRanks.greeting(RankClaim(rank: $0, size: 4))
        }
        let error = try #require(ranks.errors[0])
        #expect(error.code == .timeout && !error.isSaidElsewhere)
        #expect(error.description.hasPrefix("ranks 1 and 3 of 4 did not come to rank 0 at 127.0.0.1:"))
        #expect(error.description.contains("within 1 s"))
        #expect(ranks.errors[2]?.isSaidElsewhere == true)
    }

    private func follow(_ address: ControlLink.Address) throws(CollectiveError) {
        _ = try ControlLink.follow(
            address, LoopbackRanks.greeting(RankClaim(rank: 1, size: 2)), progress: GroupProgress(),
            limits: Self.quick
        ) { _ in }
    }

    @Test func `where nobody listens a rank says where it looked`() throws {
        // A port that was free a moment ago.
        let port = try ControlLink.Listener(ControlLink.Address(host: "127.0.0.1", port: 0)).port
        #expect {
            try follow(ControlLink.Address(host: "127.0.0.1", port: port))
        } throws: {
            ($0 as? CollectiveError)?.code == .unreachable
                && "\($0)".hasPrefix("rank 1 found nobody at 127.0.0.1:\(port) within 1 s")
        }
    }

    @Test func `a port that is in use is refused`() throws {
        let other = try ControlLink.Listener(ControlLink.Address(host: "127.0.0.1", port: 0))
        #expect {
            _ = try ControlLink.Listener(other.address)
        } throws: {
            "\($0)" == "port \(other.port) of 127.0.0.1 is in use: choose another --port"
        }
    }

    @Test(arguments: ["192.0.2.1", "no.such.host.invalid"]) func `an address of no use is refused`(
        host: String
    ) {
        #expect {
            _ = try ControlLink.Listener(ControlLink.Address(host: host, port: 0))
        } throws: {
            ($0 as? CollectiveError)?.code == .address && "\($0)".contains("give --head-ip")
        }
    }

    @Test func `another program that listens there is not taken for rank 0`() throws {
        let listener = try ControlLink.Listener(ControlLink.Address(host: "127.0.0.1", port: 0))
        let other = startThread {
            let socket = listener.socket.accept(seconds: 10)
            try? Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8).withUnsafeBytes { try socket?.write($0) }
        }
        defer { pthread_join(other, nil) }
        #expect {
            try follow(listener.address)
        } throws: {
            "\($0)" == "\(listener.address) answers rank 1, but is not Tandem: choose another --port"
        }
    }

    @Test func `a caller that is no rank changes nothing`() throws {
        let listener = try ControlLink.Listener(ControlLink.Address(host: "127.0.0.1", port: 0))
        let stranger = try #require(try Socket.connect(to: listener.address, seconds: 5))
        try Array("GET / HTTP/1.1\r\n\r\n".utf8).withUnsafeBytes { try stranger.write($0) }
        let rank1 = startThread {
            _ = try? ControlLink.follow(
                listener.address, LoopbackRanks.greeting(RankClaim(rank: 1, size: 2)),
                progress: GroupProgress()
            ) { _ in }
        }
        defer { pthread_join(rank1, nil) }
        let link = try ControlLink.lead(
            listener, LoopbackRanks.greeting(RankClaim(rank: 0, size: 2)), progress: GroupProgress()
        ) { _ in }
        link.end()
    }
}
