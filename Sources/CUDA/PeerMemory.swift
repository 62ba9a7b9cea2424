import SystemShims

/// Memory of this process's GPU that other processes of the machine write and read, and theirs as this GPU sees it.
///
/// Made in two steps, between which the processes tell each other their names for it. It is all zeros, or whatever byte is
/// asked for. The others' must not be used once their process frees it.
public final class PeerMemory: @unchecked Sendable {  // constant addresses; the driver locks
    public let context: Context
    public let byteCount: Int
    private let own: DeviceBuffer
    /// Every rank's memory; 0 where it is not known yet.
    private var addresses: [DeviceAddress] = []
    private var opened: [DeviceAddress] = []

    public init(byteCount: Int, filledWith byte: UInt8 = 0, context: Context) throws(CUDAError) {
        self.context = context
        self.byteCount = byteCount
        // Small allocations share pages, whose name would then be that of other memory too.
        let page = 2 << 20
        own = try DeviceBuffer(byteCount: (byteCount + page - 1) / page * page, context: context)
        let stream = try Stream(context: context)
        try context.makeCurrent()
        try stream.fill(own.address, with: byte, byteCount: byteCount)
        try stream.synchronize()
    }

    deinit {
        for address in opened {
            _ = context.withCurrent { context.functions.cuIpcCloseMemHandle!(address) }
        }
    }

    /// What the other processes of this machine open it by.
    public func name() throws(CUDAError) -> [UInt8] {
        let action = "naming memory for other processes"
        guard let cuIpcGetMemHandle = context.functions.cuIpcGetMemHandle else {
            throw Self.unavailable(action)
        }
        var handle = tandem_bytes_64()
        try context.check(context.withCurrent { cuIpcGetMemHandle(&handle, own.address) }, action)
        return withUnsafeBytes(of: handle) { Array($0) }
    }

    /// Makes the memory of all ranks addressable on this GPU.
    ///
    /// - Parameters:
    ///   - names: of every rank's, in the order of ranks.
    ///   - rank: this process's.
    public func open(_ names: [[UInt8]], rank: Int) throws(CUDAError) {
        let action = "opening the memory of another process's GPU"
        guard let cuIpcOpenMemHandle = context.functions.cuIpcOpenMemHandle,
            context.functions.cuIpcCloseMemHandle != nil
        else { throw Self.unavailable(action) }
        addresses = Array(repeating: 0, count: names.count)
        for (other, name) in names.enumerated() {
            if other == rank {
                addresses[rank] = own.address
                continue
            }
            var handle = tandem_bytes_64()
            withUnsafeMutableBytes(of: &handle) { $0.copyBytes(from: name.prefix(64)) }
            var address: DeviceAddress = 0
            // 1: access from GPU to GPU is switched on as needed.
            try context.check(context.withCurrent { cuIpcOpenMemHandle(&address, handle, 1) }, action)
            opened.append(address)
            addresses[other] = address
        }
    }

    /// For ranks of one process: the memory as it is, on this GPU or on others.
    public func open(_ memories: [PeerMemory]) throws(CUDAError) {
        addresses = memories.map { $0.own.address }
        for other in memories where other.context.device.index != context.device.index {
            let action = "giving GPU \(context.device.index) access to GPU \(other.context.device.index)"
            guard let cuCtxEnablePeerAccess = context.functions.cuCtxEnablePeerAccess else {
                throw Self.unavailable(action)
            }
            let status = context.withCurrent { cuCtxEnablePeerAccess(other.context.handle, 0) }
            // It may have it already.
            if status != 704 { try context.check(status, action) }
        }
    }

    /// Rank's memory, as this GPU sees it.
    public func address(of rank: Int) -> DeviceAddress { addresses[rank] }

    private static func unavailable(_ action: String) -> CUDAError {
        CUDAError(
            .driverTooOld, action: action, reason: "the driver does not share memory between processes")
    }
}

extension Stream {
    /// For libraries that put work into it: a CUstream.
    public var libraryHandle: OpaquePointer? { handle }
}
