/// Copies, fills and flags. They return before they are done: host memory must stay as it is until then, and
/// pinned (`PinnedBuffer`, `HostRegistration`), or the copy is staged through the driver and not
/// asynchronous.
extension Stream {
    /// Host memory to the GPU's.
    public func upload(_ source: UnsafeRawPointer, to destination: DeviceAddress, byteCount: Int)
        throws(CUDAError)
    {
        try context.check(
            context.functions.cuMemcpyHtoDAsync(destination, source, byteCount, handle),
            "copying \(byteCount) bytes to the GPU")
    }

    /// The GPU's memory to the host's.
    public func download(_ source: DeviceAddress, to destination: UnsafeMutableRawPointer, byteCount: Int)
        throws(CUDAError)
    {
        try context.check(
            context.functions.cuMemcpyDtoHAsync(destination, source, byteCount, handle),
            "copying \(byteCount) bytes from the GPU")
    }

    /// One place in the GPU's memory to another; they may not overlap.
    public func copy(_ source: DeviceAddress, to destination: DeviceAddress, byteCount: Int)
        throws(CUDAError)
    {
        try context.check(
            context.functions.cuMemcpyDtoDAsync(destination, source, byteCount, handle),
            "copying \(byteCount) bytes on the GPU")
    }

    /// Sets every byte of a range of the GPU's memory.
    public func fill(_ destination: DeviceAddress, with byte: UInt8 = 0, byteCount: Int) throws(CUDAError) {
        try context.check(
            context.functions.cuMemsetD8Async(destination, byte, byteCount, handle),
            "filling \(byteCount) bytes on the GPU")
    }

    /// Stores a 32-bit word when everything in front of it has been done and can be seen.
    public func write(_ value: UInt32, to flag: DeviceAddress) throws(CUDAError) {
        try context.check(
            context.functions.cuStreamWriteValue32(handle, flag, value, 0), "making a stream write a flag")
    }
}
