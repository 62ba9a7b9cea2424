/// Compiled kernels, and the GPUs that they run on.
public struct KernelImage: @unchecked Sendable {  // memory that nobody writes
    /// A cubin, or PTX with a zero behind its last byte. It must live as long as the value.
    public let bytes: UnsafeRawPointer
    /// From which compute capability on it runs: 80 for 8.0.
    public let computeCapability: Int
    /// Machine code runs on its own generation only, PTX on everything newer too.
    public let isMachineCode: Bool

    public init(bytes: UnsafeRawPointer, computeCapability: Int, isMachineCode: Bool) {
        self.bytes = bytes
        self.computeCapability = computeCapability
        self.isMachineCode = isMachineCode
    }

    /// Whether it runs on GPUs of a compute capability.
    public func runs(on computeCapability: Int) -> Bool {
        computeCapability >= self.computeCapability
            && (!isMachineCode || computeCapability / 10 == self.computeCapability / 10)
    }
}

/// An image of kernels that has been loaded into a context.
public final class Module: @unchecked Sendable {  // a constant handle; the driver locks
    public let context: Context
    private let handle: OpaquePointer?

    /// Loads an image. PTX is compiled by the driver, which takes seconds the first time; it keeps the
    /// result.
    ///
    /// - Throws: `invalidImage` or `driverTooOld`, with the log of the driver's compiler.
    public init(image: KernelImage, context: Context) throws(CUDAError) {
        let logByteCount = 8192
        var log = [CChar](repeating: 0, count: logByteCount + 1)
        var handle: OpaquePointer?
        let status = log.withUnsafeMutableBufferPointer { log in
            // CU_JIT_ERROR_LOG_BUFFER and its size, which is passed as if it were a pointer.
            var options: [Int32] = [5, 6]
            var values: [UnsafeMutableRawPointer?] = [
                UnsafeMutableRawPointer(log.baseAddress), UnsafeMutableRawPointer(bitPattern: logByteCount),
            ]
            return context.withCurrent {
                context.functions.cuModuleLoadDataEx(
                    &handle, image.bytes, UInt32(options.count), &options, &values)
            }
        }
        self.context = context
        self.handle = handle
        if status != 0 {
            let text = log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
            throw context.driver.error(
                status, "loading the kernels for compute capability \(image.computeCapability)",
                detail: String(decoding: text, as: UTF8.self))
        }
    }

    /// Loads the first of the images that runs on the context's GPU.
    ///
    /// - Throws: `invalidImage` where there is none.
    public convenience init(images: [KernelImage], context: Context) throws(CUDAError) {
        let capability = context.device.computeCapability
        guard let image = images.first(where: { $0.runs(on: capability) }) else {
            let lowest = images.map(\.computeCapability).min() ?? 0
            throw CUDAError(
                .invalidImage, action: "choosing the kernels for \(context.device.name)",
                reason: """
                    its compute capability is \(capability / 10).\(capability % 10), and the kernels need \
                    \(lowest / 10).\(lowest % 10) or newer
                    """)
        }
        try self.init(image: image, context: context)
    }

    deinit {
        if handle != nil { _ = context.withCurrent { context.functions.cuModuleUnload(handle) } }
    }

    /// The kernel of a name.
    ///
    /// - Throws: `missingKernel` where the image has none.
    public func function(named name: String) throws(CUDAError) -> KernelFunction {
        var function: OpaquePointer?
        let status = context.withCurrent { context.functions.cuModuleGetFunction(&function, handle, name) }
        try context.check(status, "looking for the kernel \(name)")
        return KernelFunction(name: name, module: self, handle: function)
    }
}
