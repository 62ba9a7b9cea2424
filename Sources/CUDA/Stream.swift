/// A queue of work on the GPU: what is put in runs in that order, beside other streams.
///
/// Its calls return at once, and need the context to be current on the calling thread
/// (`Context.makeCurrent`). A step makes hundreds of them: they allocate nothing.
public final class Stream: @unchecked Sendable {  // a constant handle; the driver locks
    public enum Priority: Sendable {
        case normal
        /// Blocks of its kernels go before those of other streams that wait.
        case high
    }

    public let context: Context
    let handle: OpaquePointer?
    let allowsProgrammaticLaunch: Bool

    public init(context: Context, priority: Priority = .normal) throws(CUDAError) {
        let functions = context.functions
        var handle: OpaquePointer?
        let status = context.withCurrent {
            var lowest: Int32 = 0
            var highest: Int32 = 0
            let status = functions.cuCtxGetStreamPriorityRange(&lowest, &highest)
            if status != 0 { return status }
            // Non-blocking: it does not wait for the legacy default stream, which libraries may use.
            return functions.cuStreamCreateWithPriority(&handle, 1, priority == .high ? highest : lowest)
        }
        self.context = context
        self.handle = handle
        allowsProgrammaticLaunch = context.device.computeCapability >= 90
        try context.check(status, "making a stream")
    }

    /// Work that has been put in still runs.
    deinit {
        guard handle != nil else { return }
        _ = context.withCurrent { context.functions.cuStreamDestroy(handle) }
    }

    /// Whether everything that was put in has been done.
    public var isIdle: Bool {
        get throws(CUDAError) {
            let status = context.functions.cuStreamQuery(handle)
            if status == notReady { return false }
            try context.check(status, "asking whether a stream is idle")
            return true
        }
    }

    /// Waits on the calling thread until everything that was put in has been done, without a limit of time.
    public func synchronize() throws(CUDAError) {
        try context.check(context.functions.cuStreamSynchronize(handle), "waiting for a stream")
    }

    /// What is put in from now on waits until the event's last record has been reached.
    public func wait(for event: Event) throws(CUDAError) {
        try context.check(
            context.functions.cuStreamWaitEvent(handle, event.handle, 0), "making a stream wait for an event")
    }
}

/// `CUDA_ERROR_NOT_READY`: an answer, not a failure.
let notReady: CUresult = 600
