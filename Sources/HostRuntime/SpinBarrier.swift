import Glibc
import SystemShims
import Synchronization

/// A barrier for a number of running threads, which poll: about a microsecond, against 50 for a sleep.
///
/// Everything a thread wrote before `wait` is seen by every thread after it. Where a thread has stopped for good the
/// barrier is dissolved: nobody waits any more.
public final class SpinBarrier: Sendable {
    private let participants: Atomic<Int>
    private let arrived = Atomic<Int>(0)
    // On a cache line of their own: arrivals must not disturb the threads that poll the generation.
    private let padding: (SIMD16<Int64>, SIMD16<Int64>) = (.zero, .zero)
    private let generation = Atomic<UInt32>(0)

    /// Polls before the thread offers its processor to others: some 20 µs, far longer than a step's imbalance
    /// where every thread has a processor, and short where threads share one.
    private static let pollsBeforeYield = 512
    /// Some 20 µs, or far longer where other programs take the processor at each offer.
    private static let pollsBetweenLooks = 64

    private let life: LifeWatch?

    public convenience init(participantCount: Int) {
        self.init(participantCount: participantCount, life: nil)
    }

    init(participantCount: Int, life: LifeWatch?) {
        precondition(participantCount > 0, "SpinBarrier: \(participantCount) participants")
        self.life = life
        participants = Atomic(participantCount)
    }

    /// May be changed while nobody waits.
    var participantCount: Int {
        get { participants.load(ordering: .relaxed) }
        set { participants.store(newValue, ordering: .relaxed) }
    }

    /// Returns when all participants have called it.
    public func wait() {
        let participantCount = participantCount
        if participantCount == 1 { return }
        let current = generation.load(ordering: .acquiring)
        if arrived.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue == participantCount {
            arrived.store(0, ordering: .relaxed)
            generation.wrappingAdd(1, ordering: .releasing)
            return
        }
        var polls = 0
        while generation.load(ordering: .acquiring) == current {
            polls += 1
            if polls < Self.pollsBeforeYield {
                tandem_spin_hint()
            } else {
                sched_yield()
                if polls % Self.pollsBetweenLooks == 0, let life, life.look() {
                    participants.store(1, ordering: .relaxed)
                    return
                }
            }
        }
    }
}
