import CUDA
import Glibc

/// GPU memory, random values and a stream for checks of single operations.
///
/// Memory that a check reserves is poisoned: every element that a kernel should have written and has not is no number.
/// Behind each range stands a guard of poison, which must be as it was afterwards.
final class GPUWorkbench {
    let context: Context
    let kernels: GPUKernels
    let stream: Stream
    /// For work that runs beside that of `stream`.
    let otherStream: Stream
    var random = RandomValues(seed: 1)

    private let memory: DeviceBuffer
    private var usedByteCount = 0
    private var ranges: [(address: UInt64, byteCount: Int)] = []

    static let poison: UInt8 = 0xff
    private static let memoryByteCount = 96 << 20
    private static let guardByteCount = 256
    /// No operation of a check takes a hundredth of it.
    private static let timeoutSeconds = 10.0

    init(_ context: Context) throws {
        try context.makeCurrent()
        self.context = context
        kernels = try GPUKernels(context)
        stream = try Stream(context: context)
        otherStream = try Stream(context: context)
        memory = try DeviceBuffer(byteCount: Self.memoryByteCount, context: context)
    }

    /// Takes back what was reserved and poisons it.
    func clear() throws {
        // At first all of it, then what was used since.
        let byteCount = usedByteCount > 0 ? usedByteCount : Self.memoryByteCount
        try stream.fill(memory.address, with: Self.poison, byteCount: byteCount)
        usedByteCount = 0
        ranges = []
        try finish()
    }

    // MARK: Memory

    /// Poisoned memory for so many elements.
    func reserve<Element: BitwiseCopyable>(_ count: Int, of type: Element.Type) throws -> UInt64 {
        let byteCount = count * MemoryLayout<Element>.stride
        let end = divideUp(usedByteCount + byteCount, 256) * 256 + Self.guardByteCount
        guard end <= Self.memoryByteCount else {
            throw ModelError(.outOfMemory, "a check needs more than \(Self.memoryByteCount) bytes of the GPU")
        }
        let address = memory.address + UInt64(usedByteCount)
        usedByteCount = end
        ranges.append((address, byteCount))
        return address
    }

    func upload<Element: BitwiseCopyable>(_ elements: [Element]) throws -> UInt64 {
        let address = try reserve(elements.count, of: Element.self)
        try elements.withUnsafeBytes {
            guard let base = $0.baseAddress, $0.count > 0 else { return }
            try stream.upload(base, to: address, byteCount: $0.count)
        }
        // Copies from memory that is not pinned may be on their way still.
        try finish()
        return address
    }

    func download<Element: BitwiseCopyable>(_ address: UInt64, _ count: Int, of type: Element.Type) throws
        -> [Element]
    {
        if count == 0 { return [] }
        let bytes = UnsafeMutableRawBufferPointer.allocate(
            byteCount: count * MemoryLayout<Element>.stride, alignment: 16)
        defer { bytes.deallocate() }
        try stream.download(address, to: bytes.baseAddress!, byteCount: bytes.count)
        try finish()
        return Array(bytes.bindMemory(to: Element.self))
    }

    /// Whether a kernel has written behind a range that was reserved.
    func isAnyGuardBroken() throws -> Bool {
        for range in ranges {
            let start = range.address + UInt64(range.byteCount)
            let next = range.address + UInt64(divideUp(range.byteCount, 256) * 256 + Self.guardByteCount)
            let found = try download(start, Int(next - start), of: UInt8.self)
            if found.contains(where: { $0 != Self.poison }) { return true }
        }
        return false
    }

    // MARK: Time

    /// Waits for both streams, for some seconds at most.
    func finish() throws {
        let deadline = ContinuousClock.now + .seconds(Self.timeoutSeconds)
        var polls = 0
        while try !(stream.isIdle && otherStream.isIdle) {
            polls += 1
            if polls > 1000 { usleep(50) }
            if polls % 64 == 0 && ContinuousClock.now > deadline { throw TimedOut() }
        }
    }

    /// Microseconds of one of so many runs that follow each other.
    func microseconds(runs: Int, _ run: () throws -> Void) throws -> Double {
        let start = try Event(context: context, isTimed: true)
        let end = try Event(context: context, isTimed: true)
        try start.record(on: stream)
        for _ in 0..<runs { try run() }
        try end.record(on: stream)
        try finish()
        return try end.elapsedMilliseconds(since: start) * 1e3 / Double(runs)
    }

    /// The GPU did not end its work in time. Nothing of it may be freed: the driver would wait for that work.
    struct TimedOut: Error, CustomStringConvertible {
        var description: String { "the GPU did not end it within \(Int(timeoutSeconds)) s" }
    }
}
