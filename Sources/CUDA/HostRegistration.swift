/// Host memory of someone else, pinned for as long as this lives: copies run at full speed beside the
/// processor's work, and kernels read and write it in place. The memory must outlive it.
public struct HostRegistration: ~Copyable, @unchecked Sendable {  // touches no byte itself
    public let context: Context
    public let baseAddress: UnsafeMutableRawPointer
    public let byteCount: Int
    /// Where the GPU sees the first byte.
    public let deviceAddress: DeviceAddress

    /// Pins the pages of a range. Touch them first, in parallel (`WorkerPool.firstTouch`): otherwise the
    /// driver makes them one after the other.
    ///
    /// - Throws: `outOfMemory` where the system does not let the process pin so much (`ulimit -l`).
    public init(baseAddress: UnsafeMutableRawPointer, byteCount: Int, context: Context) throws(CUDAError) {
        precondition(byteCount > 0, "HostRegistration: \(byteCount) bytes")
        deviceAddress = try context.pin(baseAddress, byteCount: byteCount)
        self.context = context
        self.baseAddress = baseAddress
        self.byteCount = byteCount
    }

    deinit {
        context.unpin(baseAddress)
    }
}

extension Context {
    /// Pins the pages of a range. Returns where the GPU sees its first byte.
    func pin(_ baseAddress: UnsafeMutableRawPointer, byteCount: Int) throws(CUDAError) -> DeviceAddress {
        var deviceAddress: DeviceAddress = 0
        let status = withCurrent {
            // 1 and 2: for every context, and mapped for the GPU.
            let status = functions.cuMemHostRegister(baseAddress, byteCount, 1 | 2)
            if status != 0 { return status }
            let mapping = functions.cuMemHostGetDevicePointer(&deviceAddress, baseAddress, 0)
            if mapping != 0 { _ = functions.cuMemHostUnregister(baseAddress) }
            return mapping
        }
        try check(status, "pinning \(byteCount) bytes of host memory")
        return deviceAddress
    }

    func unpin(_ baseAddress: UnsafeMutableRawPointer) {
        _ = withCurrent { functions.cuMemHostUnregister(baseAddress) }
    }
}
