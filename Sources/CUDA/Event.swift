/// A mark in a stream, which other streams and the host can wait for.
public final class Event: @unchecked Sendable {  // a constant handle; the driver locks
    public let context: Context
    /// Whether it keeps the time at which it is reached, which costs the GPU a little.
    public let isTimed: Bool
    let handle: OpaquePointer?

    /// - Parameter waitsAsleep: `synchronize` gives the processor up instead of polling.
    public init(context: Context, isTimed: Bool = false, waitsAsleep: Bool = false) throws(CUDAError) {
        var handle: OpaquePointer?
        // 1: waiting sleeps. 2: no time.
        let flags: UInt32 = (waitsAsleep ? 1 : 0) | (isTimed ? 0 : 2)
        let status = context.withCurrentAtAnyTime { context.functions.cuEventCreate(&handle, flags) }
        self.context = context
        self.isTimed = isTimed
        self.handle = handle
        try context.check(status, "making an event")
    }

    deinit {
        guard handle != nil else { return }
        _ = context.withCurrentAtAnyTime { context.functions.cuEventDestroy(handle) }
    }

    /// Puts the mark behind everything that is in the stream now. An earlier mark is forgotten.
    public func record(on stream: Stream) throws(CUDAError) {
        try context.check(context.functions.cuEventRecord(handle, stream.handle), "recording an event")
    }

    /// Whether the mark has been reached, or was never set.
    public var isComplete: Bool {
        get throws(CUDAError) {
            let status = context.functions.cuEventQuery(handle)
            if status == notReady { return false }
            try context.check(status, "asking for an event")
            return true
        }
    }

    /// Waits on the calling thread until the mark has been reached, without a limit of time.
    public func synchronize() throws(CUDAError) {
        try context.check(context.functions.cuEventSynchronize(handle), "waiting for an event")
    }

    /// Milliseconds from an earlier event to this one; both timed, recorded and reached.
    public func elapsedMilliseconds(since start: Event) throws(CUDAError) -> Double {
        precondition(isTimed && start.isTimed, "Event: only timed events know the time between them")
        var milliseconds: Float = 0
        try context.check(
            context.functions.cuEventElapsedTime(&milliseconds, start.handle, handle),
            "reading the time between two events")
        return Double(milliseconds)
    }
}
