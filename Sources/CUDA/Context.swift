/// The process's share of one GPU: it owns the device's primary context, which libraries such as NCCL use
/// too.
///
/// The driver takes work only from threads that have made the context current. What makes or frees something
/// (buffers, streams, modules) does so by itself; the calls of a step (launches, copies, events) leave it to
/// the thread.
public final class Context: @unchecked Sendable {  // a constant handle; the driver locks
    public let device: Device
    let handle: OpaquePointer?
    let functions: DriverFunctions
    private let releases: Bool

    var driver: CUDADriver { device.driver }
    private var waitingKernels: WaitingKernels { driver.waitingKernels[device.index] }

    /// Makes the context and makes it current for the calling thread. The first one of a process takes a
    /// large part of a second.
    ///
    /// - Throws: `outOfMemory` where the GPU has no room for it.
    public init(device: Device) throws(CUDAError) {
        self.device = device
        functions = device.driver.functions
        var handle: OpaquePointer?
        let status = functions.cuDevicePrimaryCtxRetain(&handle, device.handle)
        self.handle = handle
        releases = status == 0
        try driver.check(status, "making a context on GPU \(device.index)")
        try makeCurrent()
    }

    deinit {
        if releases { _ = functions.cuDevicePrimaryCtxRelease(device.handle) }
    }

    /// Lets the calling thread use the context's streams from now on.
    public func makeCurrent() throws(CUDAError) {
        try driver.check(functions.cuCtxSetCurrent(handle), "making GPU \(device.index)'s context current")
    }

    /// The GPU's memory that is free now, of all processes' together.
    public var freeByteCount: Int {
        get throws(CUDAError) { try memory().free }
    }

    /// The GPU's memory that can be used at all.
    public var totalByteCount: Int {
        get throws(CUDAError) { try memory().total }
    }

    /// Waits until the GPU has done all work of this process, without a limit of time.
    ///
    /// - Throws: `launchFailed` where any of it has failed.
    public func synchronize() throws(CUDAError) {
        try check(withCurrent { functions.cuCtxSynchronize() }, "waiting for GPU \(device.index)")
    }

    /// Runs work whose kernels wait for copies that another thread asks for, or for what the host computes. Until it is
    /// done, other threads neither make nor free anything but events: that could wait for the kernels and hold the copies
    /// and the host's other calls up.
    public func whileKernelsWait<Failure: Error>(_ work: () throws(Failure) -> Void) throws(Failure) {
        try waitingKernels.withLock(work)
    }

    /// Runs a few of the driver's calls with the context current, and puts back what was current before.
    func withCurrent(_ calls: () -> CUresult) -> CUresult {
        waitingKernels.withLock { withCurrentAtAnyTime(calls) }
    }

    /// The same for calls that never wait for kernels, even while others wait: a thread whose copies kernels wait for
    /// makes events when it is recorded.
    func withCurrentAtAnyTime(_ calls: () -> CUresult) -> CUresult {
        let status = functions.cuCtxPushCurrent(handle)
        if status != 0 { return status }
        let result = calls()
        var popped: OpaquePointer?
        _ = functions.cuCtxPopCurrent(&popped)
        return result
    }

    @inline(__always)
    func check(_ status: CUresult, _ action: @autoclosure () -> String) throws(CUDAError) {
        if status != 0 { throw driver.error(status, action()) }
    }

    private func memory() throws(CUDAError) -> (free: Int, total: Int) {
        var free = 0
        var total = 0
        try check(
            withCurrent { functions.cuMemGetInfo(&free, &total) }, "asking for GPU \(device.index)'s memory")
        return (free, total)
    }
}
