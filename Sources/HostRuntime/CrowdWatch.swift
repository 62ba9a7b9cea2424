import Glibc

/// Tells which processors other programs use, so that a pool's workers can stay away from them.
///
/// Workers that meet a hundred times in a step are as slow as the slowest of them, and one that shares its processor is out
/// for some milliseconds at a time: eight of sixteen processors shared made a step of 90 ms one of 800 ms, where the other
/// eight alone need 150. A worker that was out for a part of a run leaves its processor; that is used again when the system
/// has had nothing to do on it for a while.
///
/// Used by the thread that leads the pool, between runs. Nothing in it allocates once it is made.
final class CrowdWatch {
    /// For each rank of the workers, where it is to run. The first `activeCount` ranks have processors to themselves.
    private(set) var places: [Int32]
    private(set) var activeCount: Int

    private let processors: [Int32]
    private let workerCount: Int
    private var isCrowded: [Bool]
    private var crowdedCount = 0
    /// The system's counts of ticks for each processor, when they were last looked at.
    private var ticks: [ProcessorTicks.Count]
    private var system = ProcessorTicks()
    private var nextLook = ContinuousClock.now
    private var nextNote = ContinuousClock.now

    /// The part of a run for which a worker that has its processor to itself is never out, nor for so many seconds.
    private static let mostLostShare = 0.1
    private static let mostLostSeconds = 0.001
    private static let leastRunSeconds = 0.002
    private static let secondsBetweenLooks = 0.25
    /// The part of the time in which the system has nothing to do on a processor that can be used again.
    private static let leastIdleShare = 0.9

    /// - Parameter processors: all that may be used; at least as many as workers.
    init(processors: [Int32], workerCount: Int) {
        precondition(workerCount <= processors.count, "CrowdWatch: \(workerCount) of \(processors.count)")
        self.processors = processors
        self.workerCount = workerCount
        isCrowded = Array(repeating: false, count: processors.count)
        ticks = Array(repeating: ProcessorTicks.Count(), count: processors.count)
        places = Array(processors.prefix(workerCount))
        activeCount = workerCount
    }

    /// Takes note of a run of the active workers.
    ///
    /// - Parameter lost: the seconds for which a rank's worker was not running.
    /// - Returns: whether `places` and `activeCount` have changed.
    func note(runSeconds: Double, lost: (_ rank: Int) -> Double, now: ContinuousClock.Instant = .now) -> Bool
    {
        var isChanged = false
        if runSeconds >= Self.leastRunSeconds && now >= nextNote {
            let most = max(Self.mostLostSeconds, Self.mostLostShare * runSeconds)
            for rank in 0..<activeCount where lost(rank) > most {
                guard let index = processors.firstIndex(of: places[rank]), !isCrowded[index] else { continue }
                isCrowded[index] = true
                crowdedCount += 1
                isChanged = true
            }
        }
        if isChanged {
            // They are looked at when they have been counted for a while.
            count()
            nextLook = now + .seconds(Self.secondsBetweenLooks)
        } else if crowdedCount > 0, now >= nextLook {
            isChanged = look()
            nextLook = now + .seconds(Self.secondsBetweenLooks)
        }
        if isChanged { assign(now: now) }
        return isChanged
    }

    /// Gives processors back on which there was nothing to do since they were counted.
    private func look() -> Bool {
        var isChanged = false
        let isKnown = system.read()
        for index in processors.indices where isCrowded[index] {
            let count = isKnown ? system[processors[index]] : nil
            // Where the system does not tell, trying is the only way to know.
            if let count, count.idleShare(since: ticks[index]) < Self.leastIdleShare {
                ticks[index] = count
                continue
            }
            isCrowded[index] = false
            crowdedCount -= 1
            isChanged = true
        }
        return isChanged
    }

    private func count() {
        guard system.read() else { return }
        for index in processors.indices where isCrowded[index] {
            if let count = system[processors[index]] { ticks[index] = count }
        }
    }

    /// Puts the workers on processors that are not crowded, and leaves some of these to other threads of the process, as
    /// many as there are without crowds or an eighth.
    private func assign(now: ContinuousClock.Instant) {
        var usable = processors.count - crowdedCount
        if usable < max(2, processors.count / 4) {
            // There is no quiet place to go to, nor will there be one at once.
            for index in isCrowded.indices { isCrowded[index] = false }
            crowdedCount = 0
            usable = processors.count
            nextNote = now + .seconds(Self.secondsBetweenLooks)
        }
        let spare = min(processors.count - workerCount, usable / 8)
        activeCount = max(1, min(workerCount, usable - spare))
        var rank = 0
        // The crowded ones last.
        for pass in 0...1 {
            for index in processors.indices where isCrowded[index] == (pass == 1) && rank < workerCount {
                places[rank] = processors[index]
                rank += 1
            }
        }
    }
}

/// How the system has spent its time on each processor, as /proc/stat counts it.
struct ProcessorTicks {
    struct Count {
        var idle = 0
        var all = 0

        func idleShare(since earlier: Count) -> Double {
            all > earlier.all ? Double(idle - earlier.idle) / Double(all - earlier.all) : 0
        }
    }

    private var text = [UInt8](repeating: 0, count: 1 << 16)
    private var length = 0

    /// Looks now. Returns false where the system does not tell.
    mutating func read() -> Bool {
        let file = open("/proc/stat", O_RDONLY | O_CLOEXEC)
        if file < 0 { return false }
        defer { close(file) }
        length = 0
        while length < text.count {
            let count = text.withUnsafeMutableBytes {
                Glibc.read(file, $0.baseAddress! + length, $0.count - length)
            }
            if count <= 0 { break }
            length += count
        }
        return length > 0
    }

    /// A processor's line, "cpu3 user nice system idle iowait irq softirq steal …"; nil where there is none.
    subscript(processor: Int32) -> Count? {
        var position = 0
        while position + 4 < length {
            if text[position] == UInt8(ascii: "c"), text[position + 3] != UInt8(ascii: " ") {
                position += 3
                if number(&position) == Int(processor) {
                    var count = Count()
                    for field in 0..<8 {
                        guard let ticks = number(&position) else { return nil }
                        count.all += ticks
                        if field == 3 || field == 4 { count.idle += ticks }
                    }
                    return count
                }
            }
            while position < length, text[position] != UInt8(ascii: "\n") { position += 1 }
            position += 1
        }
        return nil
    }

    /// The digits at `position`, and a space in front of them; nil where there are none.
    private func number(_ position: inout Int) -> Int? {
        while position < length, text[position] == UInt8(ascii: " ") { position += 1 }
        var value: Int?
        while position < length, case UInt8(ascii: "0")...UInt8(ascii: "9") = text[position] {
            value = (value ?? 0) * 10 + Int(text[position] - UInt8(ascii: "0"))
            position += 1
        }
        return value
    }

    /// As if the file had this text, for tests.
    init(text: String = "") {
        let bytes = Array(text.utf8)
        self.text.replaceSubrange(0..<bytes.count, with: bytes)
        length = bytes.count
    }
}
