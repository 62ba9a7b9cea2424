import Testing

@testable import HostRuntime

struct CrowdWatchTests {
    private func watch(workers: Int = 14, processors: Int = 16) -> CrowdWatch {
        CrowdWatch(processors: (0..<processors).map { Int32($0) }, workerCount: workers)
    }

    @Test func `workers leave processors on which they are kept waiting`() {
        let watch = watch()
        #expect(watch.activeCount == 14 && watch.places == (0..<14).map { Int32($0) })
        // Ranks 8 to 13 share their processors.
        let isChanged = watch.note(runSeconds: 0.1) { $0 >= 8 ? 0.05 : 0.0005 }
        #expect(isChanged)
        // 0 to 7, 14 and 15 are left, and one of ten is for other threads.
        #expect(watch.activeCount == 9)
        #expect(watch.places.prefix(10) == [0, 1, 2, 3, 4, 5, 6, 7, 14, 15])
        #expect(Set(watch.places).count == 14)
        // So is one of those that were not tried before.
        let isChangedAgain = watch.note(runSeconds: 0.1) { watch.places[$0] >= 14 ? 0.05 : 0 }
        #expect(isChangedAgain)
        #expect(watch.activeCount == 8)
        #expect(watch.places.prefix(9) == [0, 1, 2, 3, 4, 5, 6, 7, 15])
    }

    @Test func `moments, and short runs, count for nothing`() {
        let watch = watch()
        let wasOut = watch.note(runSeconds: 0.1) { $0 == 3 ? 0.008 : 0 }
        let wasShort = watch.note(runSeconds: 0.001) { _ in 0.001 }
        #expect(!wasOut && !wasShort && watch.activeCount == 14)
    }

    @Test func `where nearly all processors are crowded the workers stay`() {
        let watch = watch(workers: 4, processors: 4)
        _ = watch.note(runSeconds: 0.1) { _ in 0.05 }
        #expect(watch.activeCount == 4 && watch.places == [0, 1, 2, 3])
        let pair = self.watch(workers: 2, processors: 2)
        _ = pair.note(runSeconds: 0.1) { $0 == 1 ? 0.05 : 0 }
        #expect(pair.activeCount == 2)
    }

    /// No processor of this machine has such a number, so that the system does not tell: trying is the only way.
    @Test func `processors are tried again after a while`() {
        let watch = CrowdWatch(processors: (100_000..<100_008).map { Int32($0) }, workerCount: 8)
        let start = ContinuousClock.now
        _ = watch.note(runSeconds: 0.1, lost: { $0 == 5 ? 0.05 : 0 }, now: start)
        #expect(watch.activeCount == 7 && !watch.places.prefix(7).contains(100_005))
        let isTooEarly = watch.note(runSeconds: 0.1, lost: { _ in 0 }, now: start + .milliseconds(200))
        #expect(!isTooEarly)
        let isBack = watch.note(runSeconds: 0.1, lost: { _ in 0 }, now: start + .milliseconds(300))
        #expect(isBack && watch.activeCount == 8)
    }

    @Test func `ticks are read as the system writes them`() throws {
        let text = """
            cpu  100 0 50 800 50 0 0 0 0 0
            cpu0 10 1 5 80 5 1 2 3 0 0
            cpu1 20 0 5 70 5 0 0 0 0 0
            cpu12 90 0 5 0 5 0 0 0 0 0
            intr 12345 0 0
            """
        let ticks = ProcessorTicks(text: text)
        let first = try #require(ticks[0])
        #expect(first.idle == 85 && first.all == 107)
        let later = try #require(ticks[12])
        #expect(later.idle == 5 && later.all == 100)
        #expect(ticks[2] == nil)
        #expect(ProcessorTicks.Count(idle: 90, all: 120).idleShare(since: .init(idle: 5, all: 20)) == 0.85)
    }

    @Test func `this system's ticks can be read`() {
        var ticks = ProcessorTicks()
        let isKnown = ticks.read()
        #expect(isKnown)
        #expect((0..<4096).contains { ticks[$0].map { $0.all > 0 } ?? false })
    }
}
