import HostRuntime

/// Host memory that the GPU reads and writes too: a `HostBuffer`, pinned.
///
/// Registering huge pages that were touched in parallel is ten times faster than an allocation by the driver.
public struct PinnedBuffer: ~Copyable, Sendable {
    public let context: Context
    private let buffer: HostBuffer
    /// Where the GPU sees the first byte.
    public let deviceAddress: DeviceAddress

    /// Pins a buffer, which should have been touched (`WorkerPool.firstTouch`).
    ///
    /// - Throws: `outOfMemory` where the system does not let the process pin so much (`ulimit -l`).
    public init(_ buffer: consuming HostBuffer, context: Context) throws(CUDAError) {
        // A buffer of no bytes has a page all the same.
        deviceAddress = try context.pin(buffer.baseAddress, byteCount: max(1, buffer.byteCount))
        self.context = context
        self.buffer = buffer
    }

    /// The buffer itself is freed after this.
    deinit {
        context.unpin(buffer.baseAddress)
    }

    public var baseAddress: UnsafeMutableRawPointer { buffer.baseAddress }

    public var byteCount: Int { buffer.byteCount }

    /// The element at `byteOffset` and those behind it.
    public func pointer<Element: BitwiseCopyable>(
        at byteOffset: Int = 0, as type: Element.Type = Element.self
    )
        -> UnsafeMutablePointer<Element>
    {
        buffer.pointer(at: byteOffset, as: type)
    }
}
