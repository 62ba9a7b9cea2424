/// Memory of the GPU, of exactly the size asked for. It is not cleared.
public struct DeviceBuffer: ~Copyable, Sendable {
    public let context: Context
    /// A multiple of 256; 0 where it has no bytes.
    public let address: DeviceAddress
    public let byteCount: Int

    /// - Throws: `outOfMemory`.
    public init(byteCount: Int, context: Context) throws(CUDAError) {
        precondition(byteCount >= 0, "DeviceBuffer: \(byteCount) bytes")
        var address: DeviceAddress = 0
        // The driver refuses to allocate nothing.
        let status =
            byteCount == 0 ? 0 : context.withCurrent { context.functions.cuMemAlloc(&address, byteCount) }
        self.context = context
        self.address = address
        self.byteCount = byteCount
        try context.check(status, "allocating \(byteCount) bytes on GPU \(context.device.index)")
    }

    /// Waits for the work that the GPU has, as the driver's `cuMemFree` does: not for a step.
    deinit {
        if address != 0 { _ = context.withCurrent { context.functions.cuMemFree(address) } }
    }
}
