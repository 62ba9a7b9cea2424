import Collectives
import HostRuntime
import Synchronization

/// Threads of one process as the processes of a group: what the ranks exchange goes through memory.
final class ThreadGroup: @unchecked Sendable {  // a rank writes its own entries, between meetings
    let size: Int
    private let monitor = Monitor()
    private var arrivedCount = 0
    private var meetingNumber = 0
    private var parts: [UnsafePointer<Float>?]
    private var commands: [[UInt8]] = []
    private var isEnded = false
    private var hasFailed = false
    /// All-reduces of rank 0.
    private(set) var reduceCount = 0
    /// Which meeting fails on all ranks; nil for none.
    var failingMeeting: Int?

    init(size: Int) {
        self.size = size
        parts = Array(repeating: nil, count: size)
    }

    func communicator(_ rank: Int) -> any Communicator { Rank(group: self, rank: rank) }
    func channel(_ rank: Int) -> any CommandChannel { Channel(group: self) }

    /// Rank 0 is done.
    func end() {
        monitor.withLock {
            isEnded = true
            monitor.broadcast()
        }
    }

    /// A rank has ended with an error: nobody waits for it.
    func fail() {
        monitor.withLock {
            hasFailed = true
            monitor.broadcast()
        }
    }

    private func meet() throws(CollectiveError) {
        let number = monitor.withLock {
            let number = meetingNumber
            arrivedCount += 1
            if arrivedCount == size {
                arrivedCount = 0
                meetingNumber += 1
                monitor.broadcast()
            } else {
                while meetingNumber == number && !hasFailed { monitor.wait() }
            }
            return number
        }
        if let failingMeeting, number >= failingMeeting {
            throw CollectiveError(.library, "meeting \(failingMeeting) was to fail")
        }
        if monitor.withLock({ hasFailed }) { throw CollectiveError(.lostRank, "a rank has failed") }
    }

    private final class Rank: Communicator, @unchecked Sendable {
        let group: ThreadGroup
        let place: RankPlace

        init(group: ThreadGroup, rank: Int) {
            self.group = group
            place = RankPlace(rank: rank, size: group.size, localRank: rank, localSize: group.size)
        }

        func allReduce(_ values: UnsafeMutablePointer<Float>, count: Int) throws(CollectiveError) {
            group.parts[place.rank] = UnsafePointer(values)
            try group.meet()
            let sums = UnsafeMutablePointer<Float>.allocate(capacity: count)
            defer { sums.deallocate() }
            sums.initialize(repeating: 0, count: count)
            for part in group.parts {
                for index in 0..<count { sums[index] += part![index] }
            }
            // Nobody writes before all have read.
            try group.meet()
            values.update(from: sums, count: count)
            if place.rank == 0 { group.reduceCount += 1 }
        }

        func gather(
            _ values: UnsafePointer<Float>, counts: GatherCounts, to result: UnsafeMutablePointer<Float>?
        ) throws(CollectiveError) {
            group.parts[place.rank] = values
            try group.meet()
            if let result {
                for rank in 0..<group.size {
                    (result + counts.offset(of: rank)).update(
                        from: group.parts[rank]!, count: counts.count(of: rank))
                }
            }
            try group.meet()
        }
    }

    private final class Channel: CommandChannel, @unchecked Sendable {
        let group: ThreadGroup
        private var seenCount = 0

        init(group: ThreadGroup) { self.group = group }

        func send(_ command: UnsafeRawBufferPointer) throws(CollectiveError) {
            group.monitor.withLock {
                group.commands.append(Array(command))
                group.monitor.broadcast()
            }
        }

        func receive(into buffer: inout [UInt8]) throws(CollectiveError) -> Bool {
            let next: [UInt8]? = group.monitor.withLock {
                while group.commands.count == seenCount && !group.isEnded { group.monitor.wait() }
                return group.commands.count > seenCount ? group.commands[seenCount] : nil
            }
            guard let next else { return false }
            seenCount += 1
            buffer = next
            return true
        }
    }
}
