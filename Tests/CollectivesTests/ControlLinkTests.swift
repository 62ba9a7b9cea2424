import Glibc
import Testing

@testable import Collectives

/// What goes over the link, and how all ranks learn that one is lost.
@Suite(.serialized) struct ControlLinkTests {
    /// Short, yet longer than a thread waits for its turn on a busy machine.
    private static let quick = {
        var limits = ControlLink.Limits()
        limits.beatSeconds = 0.1
        limits.silenceSeconds = 2
        limits.stallSeconds = 2
        // Other tests keep the process busy.
        limits.patienceSeconds = 2
        limits.jamSeconds = 2
        return limits
    }()

    @Test func `commands reach all ranks in order, and the end is orderly`() throws {
        let ranks = try LoopbackRanks(3)
        let received = ranks.perform { link -> [[UInt8]] in
            if link.place.rank == 0 {
                for length in [1, 0, 70_000] {
                    try [UInt8](repeating: UInt8(length % 251), count: length).withUnsafeBytes {
                        try link.send($0)
                    }
                }
                link.end()
                return []
            }
            var commands: [[UInt8]] = []
            var buffer: [UInt8] = []
            while try link.receive(into: &buffer) { commands.append(buffer) }
            return commands
        }
        for commands in received.dropFirst() {
            #expect(commands?.map(\.count) == [1, 0, 70_000])
            #expect(commands?.last?.allSatisfy { Int($0) == 70_000 % 251 } == true)
        }
    }

    @Test func `what each rank gives all ranks have, before the first command and behind one`() throws {
        let size = 4
        let ranks = try LoopbackRanks(size)
        @Sendable func gift(_ rank: Int, _ length: Int) -> [UInt8] {
            Array(repeating: UInt8(rank + 1), count: rank * length)
        }
        let results = ranks.perform { link -> [[[UInt8]]] in
            let rank = link.place.rank
            var all = [try link.allGather(gift(rank, 1)), try link.allGather(gift(rank, 40_000))]
            if rank == 0 {
                try [UInt8(7)].withUnsafeBytes { try link.send($0) }
            } else {
                var command: [UInt8] = []
                #expect(try link.receive(into: &command) && command == [7])
            }
            all.append(try link.allGather(gift(rank, 3)))
            if rank == 0 { link.end() }
            return all
        }
        let expected = [1, 40_000, 3].map { length in (0..<size).map { gift($0, length) } }
        #expect(results.allSatisfy { $0 == expected })
    }

    @Test func `rank 0 asks, between commands, what the others say of themselves`() throws {
        let ranks = try LoopbackRanks(3)
        let answers = ranks.perform { link -> [[UInt8]] in
            let rank = link.place.rank
            if rank == 0 {
                let first = try link.ask()
                try [UInt8(7)].withUnsafeBytes { try link.send($0) }
                let second = try link.ask()
                link.end()
                return first + second
            }
            link.answer { Array(repeating: UInt8(rank), count: 2 * rank) }
            var command: [UInt8] = []
            while try link.receive(into: &command) {}
            return []
        }
        #expect(answers[0] == [[1, 1], [2, 2, 2, 2], [1, 1], [2, 2, 2, 2]])
    }

    @Test(arguments: [0, 1, 2]) func `a rank that is gone ends all, and one says so`(lost: Int) throws {
        let ranks = try LoopbackRanks(3)
        defer { ranks.vanish() }
        ranks.links[lost]!.vanish()
        let speaker = lost == 0 ? 1 : 0
        for rank in 0..<3 where rank != lost {
            let failure = try #require(ranks.failure(of: rank))
            #expect(failure.speaks == (rank == speaker))
            #expect(failure.sentence.hasPrefix("rank \(lost) on here ended without a word"))
        }
    }

    @Test(arguments: [0, 2]) func `a rank that stands still ends all, and one says so`(lost: Int) throws {
        let ranks = try LoopbackRanks(3, limits: Self.quick)
        defer { ranks.vanish() }
        ranks.links[lost]!.fallSilent()
        let speaker = lost == 0 ? 1 : 0
        for rank in 0..<3 where rank != lost {
            let failure = try #require(ranks.failure(of: rank))
            #expect(failure.speaks == (rank == speaker))
            #expect(failure.sentence.hasPrefix("rank \(lost) on here has given no sign of life for 2 s"))
        }
    }

    @Test func `a rank that is still in a step when rank 0 has ended goes too, without a word`() throws {
        var limits = ControlLink.Limits()
        limits.leaveSeconds = 0.5
        let ranks = try LoopbackRanks(3, limits: limits)
        defer { ranks.vanish() }
        // Rank 1 waits for commands, rank 2 does not come to look for them.
        let isLeft = ranks.perform { link -> Bool in
            switch link.place.rank {
            case 0:
                try [UInt8(7)].withUnsafeBytes { try link.send($0) }
                link.end()
                return true
            case 1:
                var command: [UInt8] = []
                while try link.receive(into: &command) {}
                return true
            default:
                var command: [UInt8] = []
                return try link.receive(into: &command)
            }
        }
        #expect(isLeft == [true, true, true])
        let failure = try #require(ranks.failure(of: 2))
        #expect(!failure.speaks && failure.sentence == "rank 0 has ended")
        usleep(700_000)
        #expect(ranks.hasFailed(1) == false)
    }

    @Test func `ranks that do not begin a step are found, however many, and a step may take long`() throws {
        let ranks = try LoopbackRanks(3, limits: Self.quick)
        defer { ranks.vanish() }
        for progress in ranks.progress { progress.beginStep() }
        usleep(3_000_000)
        #expect(!(0..<3).contains { ranks.hasFailed($0) })
        ranks.progress[0].beginStep()
        let failure = try #require(ranks.failure(of: 0))
        #expect(failure.sentence.hasPrefix("rank 1 has not come to meeting 2 of the ranks for"))
        #expect(try #require(ranks.failure(of: 1)).speaks)
    }

    @Test func `a rank that gathers is told where another is gone`() throws {
        let ranks = try LoopbackRanks(3)
        defer { ranks.vanish() }
        let results = ranks.perform { link -> [[UInt8]] in
            if link.place.rank == 2 {
                link.vanish()
                return []
            }
            return try link.allGather([1])
        }
        #expect(results[0] == nil && results[1] == nil)
    }

    @Test(arguments: [0, 2]) func `a rank for which all others wait says that it holds them up`(late: Int)
        throws
    {
        let ranks = try LoopbackRanks(3, limits: Self.quick)
        defer { ranks.vanish() }
        for rank in 0..<3 where rank != late { ranks.progress[rank].enterMeeting() }
        for rank in 0..<3 {
            let failure = try #require(ranks.failure(of: rank))
            #expect(failure.speaks == (rank == late))
            #expect(failure.sentence.hasPrefix("rank \(late) has not come to meeting 1 of the ranks for 2 s"))
        }
    }

    @Test func `where all wait and nothing comes rank 0 names the network`() throws {
        let ranks = try LoopbackRanks(3, limits: Self.quick)
        defer { ranks.vanish() }
        for progress in ranks.progress { progress.enterMeeting() }
        for rank in 0..<3 {
            let failure = try #require(ranks.failure(of: rank))
            #expect(failure.speaks == (rank == 0))
            #expect(failure.sentence.hasPrefix("all ranks wait in meeting 1 for 2 s"))
        }
    }

    @Test func `a rank that fails says why itself, and the others end`() throws {
        let ranks = try LoopbackRanks(3)
        defer { ranks.vanish() }
        ranks.links[1]!.fail("the disk is full")
        for rank in [0, 2] {
            let failure = try #require(ranks.failure(of: rank))
            #expect(!failure.speaks && failure.sentence == "the disk is full")
        }
    }
}
