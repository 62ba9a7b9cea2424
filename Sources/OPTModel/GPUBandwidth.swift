import CUDA
import Glibc
import HostRuntime

/// What a GPU's memory and its PCIe sustain, in bytes a second, measured by the means that the GPU lane uses.
///
/// Its calls come from the thread on which the context is current.
public struct GPUBandwidth {
    let context: Context
    let kernels: GPUKernels
    let stream: Stream

    private static let pinnedByteCount = 256 << 20
    /// Rounds of which the best counts, after one that is left out.
    private static let roundCount = 5
    /// Nothing that is measured takes a tenth of it.
    private static let timeoutSeconds = 30.0

    init(context: Context, kernels: GPUKernels, stream: Stream) {
        self.context = context
        self.kernels = kernels
        self.stream = stream
    }

    /// For a GPU on which nothing else runs; makes its context current.
    public init(_ context: Context) throws(ModelError) {
        do {
            try context.makeCurrent()
            self.init(
                context: context, kernels: try GPUKernels(context), stream: try Stream(context: context))
        } catch {
            throw ModelError(error)
        }
    }

    /// A plain kernel that reads memory.
    public func memoryReadRate() throws(ModelError) -> Double {
        do {
            let byteCount = max(64 << 20, min(4 << 30, try context.freeByteCount / 2)) / 65536 * 65536
            let memory = try DeviceBuffer(byteCount: byteCount + 256, context: context)
            // Random bits would do as well as ones; zeros might not.
            try stream.fill(memory.address, with: 0x3c, byteCount: byteCount + 256)
            return try bestRate(byteCount: byteCount) { () throws(CUDAError) in
                try kernels.read(
                    memory.address, byteCount: byteCount, digest: memory.address + UInt64(byteCount),
                    on: stream)
            }
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Copies from pinned CPU memory to the GPU.
    public func uploadRate() throws(ModelError) -> Double {
        do {
            let pinned = try makePinnedBuffer()
            let memory = try DeviceBuffer(byteCount: pinned.byteCount, context: context)
            return try bestRate(byteCount: pinned.byteCount * 4) { () throws(CUDAError) in
                for _ in 0..<4 {
                    try stream.upload(pinned.baseAddress, to: memory.address, byteCount: pinned.byteCount)
                }
            }
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Copies from the GPU to pinned CPU memory.
    public func downloadRate() throws(ModelError) -> Double {
        do {
            let pinned = try makePinnedBuffer()
            let memory = try DeviceBuffer(byteCount: pinned.byteCount, context: context)
            try stream.fill(memory.address, with: 0x3c, byteCount: pinned.byteCount)
            return try bestRate(byteCount: pinned.byteCount * 4) { () throws(CUDAError) in
                for _ in 0..<4 {
                    try stream.download(memory.address, to: pinned.baseAddress, byteCount: pinned.byteCount)
                }
            }
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Copies to the GPU while the processor does something else, again and again until they have ended.
    ///
    /// - Parameters:
    ///   - seconds: about how long, at `expectedRate`.
    ///   - work: one round of the other work, much shorter than that.
    /// - Returns: the rate of the copies, and the seconds of the rounds that ran beside them from beginning to end.
    public func uploadRate(
        lasting seconds: Double, at expectedRate: Double, beside work: () -> Void
    ) throws(ModelError) -> (rate: Double, roundSeconds: [Double]) {
        do {
            let pinned = try makePinnedBuffer()
            let memory = try DeviceBuffer(byteCount: pinned.byteCount, context: context)
            let start = try Event(context: context, isTimed: true)
            let end = try Event(context: context, isTimed: true)
            let count = max(2, Int(seconds * expectedRate / Double(pinned.byteCount)))
            try start.record(on: stream)
            for _ in 0..<count {
                try stream.upload(pinned.baseAddress, to: memory.address, byteCount: pinned.byteCount)
            }
            try end.record(on: stream)
            var rounds: [Double] = []
            let deadline = ContinuousClock.now + .seconds(Self.timeoutSeconds)
            while try !end.isComplete {
                let began = ContinuousClock.now
                work()
                let ended = ContinuousClock.now
                if try !end.isComplete { rounds.append(began.duration(to: ended) / .seconds(1)) }
                if ended > deadline { throw Self.timedOut }
            }
            let copySeconds = try end.elapsedMilliseconds(since: start) / 1e3
            return (Double(count * pinned.byteCount) / copySeconds, rounds)
        } catch {
            throw ModelError(loading: error)
        }
    }

    private func makePinnedBuffer() throws -> PinnedBuffer {
        let host = try HostBuffer(byteCount: Self.pinnedByteCount)
        memset(host.baseAddress, 0x3c, host.byteCount)
        return try PinnedBuffer(host, context: context)
    }

    private func bestRate(byteCount: Int, _ run: () throws(CUDAError) -> Void) throws -> Double {
        let start = try Event(context: context, isTimed: true)
        let end = try Event(context: context, isTimed: true)
        var best = 0.0
        for round in 0...Self.roundCount {
            try start.record(on: stream)
            try run()
            try end.record(on: stream)
            let deadline = ContinuousClock.now + .seconds(Self.timeoutSeconds)
            while try !end.isComplete {
                if ContinuousClock.now > deadline { throw Self.timedOut }
            }
            if round > 0 {
                best = max(best, Double(byteCount) / (try end.elapsedMilliseconds(since: start) / 1e3))
            }
        }
        return best
    }

    private static var timedOut: ModelError {
        ModelError(.gpu, "the GPU did not end a measurement within \(Int(timeoutSeconds)) s")
    }
}
