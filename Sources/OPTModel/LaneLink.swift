import CUDA
import CUDAKernelImage
import Glibc
import HostRuntime
import Synchronization
import SystemShims

/// The handshake between the GPU lane and the processor's threads within a step: activations and sequence numbers in
/// mapped host memory, both sides polling.
///
/// A step passes through the same exchanges in the same order. In each the GPU publishes values, then the host computes
/// an answer and publishes that, then the GPU takes it. Each side has a word for each exchange, which holds the number
/// of the last step in which its values were there: numbers only grow, so no word has to be put back, and a graph that
/// was captured once serves all steps.
///
/// The values of all exchanges share memory: the GPU publishes the next ones only after it has taken the answer, for
/// which all threads have read the last ones.
///
/// No wait is without end. Whoever waits too long, or learns that the other side has failed, raises the abort flag,
/// which both sides look at. A link that was aborted stays so. Links of the same step are aborted together.
final class LaneLink: @unchecked Sendable {  // words are atomic and say whose the values are
    /// What a link is made for.
    struct Shape {
        var exchangeCount: Int
        /// The most bytes of one exchange's values, and of its answer.
        var inputByteCount, answerByteCount: Int
    }

    /// How long each side waits for the other.
    struct TimeLimits {
        /// The GPU, for an answer: no lane computes as long on one.
        var gpuSeconds = 60.0
        /// The host, for the GPU's next values. It is the longer one, as the GPU may wait for several blocks of
        /// weights in between, each within a limit of its own.
        var hostSeconds = 600.0
    }

    /// What the abort flag says.
    enum Fault: UInt32, Sendable {
        case gpuWaitedTooLong = 1
        case hostWaitedTooLong
        /// The GPU, or what it depends on, has failed, or its step ended without the exchange.
        case gpuFailed
        /// A thread of the host has stopped for good.
        case workerStopped
    }

    let shape: Shape
    let limits: TimeLimits
    private let buffer: PinnedBuffer
    /// The link whose abort flag is this one's.
    private let partner: LaneLink?
    private let abortWord: UnsafeMutablePointer<Atomic<UInt32>>
    let abortAddress: UInt64

    /// - Parameter partner: another link of the same step, with which this one is aborted.
    init(
        _ shape: Shape, limits: TimeLimits = TimeLimits(), partner: LaneLink? = nil, context: Context
    ) throws {
        assert(Fault.gpuWaitedTooLong.rawValue == UInt32(TANDEM_GPU_WAITED_TOO_LONG))
        self.shape = shape
        self.limits = limits
        let answerOffset = Self.answerOffset(shape)
        let memory = try HostBuffer(byteCount: answerOffset + shape.answerByteCount)
        // Pages come cleared: no word holds a step's number, as steps are counted from 1.
        buffer = try PinnedBuffer(memory, context: context)
        self.partner = partner
        abortWord = partner?.abortWord ?? buffer.baseAddress.assumingMemoryBound(to: Atomic<UInt32>.self)
        abortAddress = partner?.abortAddress ?? buffer.deviceAddress
    }

    // MARK: Memory

    // The abort flag, the words of the exchanges, the GPU's values, the answer.

    /// The GPU's word and the host's, each on lines of its own: one side polls what the other writes.
    private static let wordStride = 128
    private static func inputOffset(_ shape: Shape) -> Int { (1 + 2 * shape.exchangeCount) * wordStride }
    private static func answerOffset(_ shape: Shape) -> Int {
        divideUp(inputOffset(shape) + shape.inputByteCount, wordStride) * wordStride
    }

    private func inputWordOffset(_ exchange: Int) -> Int { (1 + 2 * exchange) * Self.wordStride }
    private func answerWordOffset(_ exchange: Int) -> Int { (2 + 2 * exchange) * Self.wordStride }

    private func word(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        (buffer.baseAddress + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// What the GPU has published, until the answer is.
    var input: UnsafeRawPointer { UnsafeRawPointer(buffer.baseAddress + Self.inputOffset(shape)) }
    /// Where the answer goes, once there is input.
    var answer: UnsafeMutableRawPointer { buffer.baseAddress + Self.answerOffset(shape) }

    /// The same, as the GPU sees them.
    var inputAddress: UInt64 { buffer.deviceAddress + UInt64(Self.inputOffset(shape)) }
    var answerAddress: UInt64 { buffer.deviceAddress + UInt64(Self.answerOffset(shape)) }
    func inputWordAddress(_ exchange: Int) -> UInt64 {
        buffer.deviceAddress + UInt64(inputWordOffset(exchange))
    }
    func answerWordAddress(_ exchange: Int) -> UInt64 {
        buffer.deviceAddress + UInt64(answerWordOffset(exchange))
    }

    // MARK: The host's side

    /// Polls until the GPU has published its values of a step; any number of threads may.
    ///
    /// - Parameter isGPUAtWork: asked now and then; false raises the abort flag, unless the values are there by then.
    /// - Returns: false where the link is or becomes aborted: there are no values then, and will be none.
    func waitForInput(of exchange: Int, step: UInt32, isGPUAtWork: () -> Bool = { true }) -> Bool {
        let word = word(inputWordOffset(exchange))
        return wait(isGPUAtWork: isGPUAtWork) { word.pointee.load(ordering: .acquiring) == step }
    }

    /// Polls until something is there that the host's part of an exchange needs, as `waitForInput` does.
    func wait(isGPUAtWork: () -> Bool = { true }, until isThere: () -> Bool) -> Bool {
        var polls = 0
        var start: ContinuousClock.Instant?
        var lastCheck: ContinuousClock.Instant?
        while !isThere() {
            if fault != nil { return false }
            polls += 1
            if polls < Self.pollsBeforeYield {
                tandem_spin_hint()
                continue
            }
            sched_yield()
            if polls % Self.pollsBetweenLooks != 0 { continue }
            let now = ContinuousClock.now
            let begin = start ?? now
            start = begin
            if now - (lastCheck ?? begin) < Self.betweenChecks { continue }
            lastCheck = now
            if now - begin > .seconds(limits.hostSeconds) {
                abort(.hostWaitedTooLong)
            } else if !isGPUAtWork() && !isThere() {
                abort(.gpuFailed)
            }
        }
        return true
    }

    /// Tells the GPU that a step's answer is there; the values it was computed from may be overwritten from now on.
    func publishAnswer(of exchange: Int, step: UInt32) {
        word(answerWordOffset(exchange)).pointee.store(step, ordering: .releasing)
    }

    // MARK: Aborting

    /// Lets both sides stop waiting. The first reason stays.
    func abort(_ fault: Fault) {
        _ = abortWord.pointee.compareExchange(
            expected: 0, desired: fault.rawValue, ordering: .acquiringAndReleasing)
    }

    /// Why the link was aborted; nil while it works.
    var fault: Fault? {
        let raised = abortWord.pointee.load(ordering: .relaxed)
        return raised == 0 ? nil : Fault(rawValue: raised) ?? .gpuFailed
    }

    /// Throws why the link was aborted, in a sentence.
    func check() throws(ModelError) {
        switch fault {
        case nil: return
        case .gpuWaitedTooLong:
            throw ModelError(
                .gpu,
                "the CPU's part of a layer did not come within \(Self.text(limits.gpuSeconds)) s; the GPU gave up waiting"
            )
        case .hostWaitedTooLong:
            throw ModelError(
                .gpu,
                "the GPU did not reach the CPU's part of a layer within \(Self.text(limits.hostSeconds)) s; the CPU gave up waiting"
            )
        case .gpuFailed:
            throw ModelError(.gpu, "the GPU stopped before a layer that the CPU computes a part of")
        case .workerStopped:
            throw ModelError.stoppedWorker
        }
    }

    private static func text(_ seconds: Double) -> String {
        seconds == seconds.rounded() ? "\(Int(seconds))" : "\(seconds)"
    }

    /// Some 20 µs; then the processor is offered to others between polls: the threads that stream weights need one,
    /// and the GPU may be busy with weights for long.
    private static let pollsBeforeYield = 512
    /// Polls between looks at the clock. By polls alone the checks would be seconds apart where other programs take the
    /// processor at each offer.
    private static let pollsBetweenLooks = 64
    private static let betweenChecks = Duration.microseconds(500)
}
