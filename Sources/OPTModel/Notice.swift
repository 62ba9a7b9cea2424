import Glibc
import Synchronization
import SystemShims

/// A word in mapped memory that the GPU sets to 1 when it has done with a slot, for a thread that polls.
struct Notice {
    let word: UnsafeMutablePointer<Atomic<UInt32>>

    init(_ memory: UnsafeMutableRawPointer) {
        word = memory.assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Polls until the word is set, ever less often, and clears it; false where the thread is to stop.
    func take(unless isStopping: borrowing Atomic<Bool>) -> Bool {
        var polls = 0
        while word.pointee.load(ordering: .acquiring) == 0 {
            if isStopping.load(ordering: .relaxed) { return false }
            polls += 1
            if polls < Self.pollsBeforeSleep {
                tandem_spin_hint()
            } else {
                usleep(polls < Self.pollsBeforeLongSleep ? 20 : 500)
            }
        }
        word.pointee.store(0, ordering: .relaxed)
        return !isStopping.load(ordering: .relaxed)
    }

    /// Some 20 µs.
    private static let pollsBeforeSleep = 500
    /// Then some 100 ms: longer than a block of weights takes.
    private static let pollsBeforeLongSleep = 2500
}
