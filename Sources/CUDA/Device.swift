/// A GPU, and what a plan needs to know of it.
public struct Device: Sendable {
    /// Its number among the driver's devices.
    public let index: Int
    public let name: String
    /// 10 * major + minor: 90 for 9.0.
    public let computeCapability: Int
    public let totalByteCount: Int
    public let multiprocessorCount: Int
    /// The most shared memory that a block can have, where its kernel asks for it (`KernelFunction`).
    public let maxSharedByteCountPerBlock: Int
    public let l2ByteCount: Int
    /// The highest rate of the multiprocessors' clock, in Hz.
    public let clockRate: Double
    /// What the memory's clock and width allow, in bytes a second.
    public let peakMemoryBandwidth: Double
    /// Where it sits, as `domain:bus:device.function` in hexadecimal: the name of its folder in
    /// /sys/bus/pci/devices.
    public let pciBusID: String

    let handle: Int32
    let driver: CUDADriver
}

extension CUDADriver {
    /// The device with that number, in `0 ..< deviceCount`.
    ///
    /// - Throws: `noDevice` where there is none of that number.
    public func device(_ index: Int = 0) throws(CUDAError) -> Device {
        let action = "asking for GPU \(index)"
        guard index >= 0 && index < deviceCount else {
            throw CUDAError(
                .noDevice, action: action, reason: "this machine has \(deviceCount), numbered from 0")
        }
        var handle: Int32 = 0
        try check(functions.cuDeviceGet(&handle, Int32(index)), action)

        func attribute(_ attribute: Attribute) throws(CUDAError) -> Int {
            var value: Int32 = 0
            try check(functions.cuDeviceGetAttribute(&value, attribute.rawValue, handle), action)
            return Int(value)
        }
        var totalByteCount = 0
        try check(functions.cuDeviceTotalMem(&totalByteCount, handle), action)
        return Device(
            index: index,
            name: try text(action) { functions.cuDeviceGetName($0, $1, handle) },
            computeCapability: try 10 * attribute(.computeCapabilityMajor)
                + attribute(.computeCapabilityMinor),
            totalByteCount: totalByteCount,
            multiprocessorCount: try attribute(.multiprocessorCount),
            maxSharedByteCountPerBlock: try attribute(.maxSharedMemoryPerBlockOptIn),
            l2ByteCount: try attribute(.l2CacheSize),
            clockRate: 1e3 * Double(try attribute(.clockRate)),
            // Data go with both edges of the clock.
            peakMemoryBandwidth: 2e3 * Double(try attribute(.memoryClockRate))
                * Double(try attribute(.memoryBusWidth)) / 8,
            pciBusID: try text(action) { functions.cuDeviceGetPCIBusId($0, $1, handle) }.lowercased(),
            handle: handle,
            driver: self)
    }

    /// `CUdevice_attribute`.
    private enum Attribute: Int32 {
        case clockRate = 13
        case multiprocessorCount = 16
        case memoryClockRate = 36
        case memoryBusWidth = 37
        case l2CacheSize = 38
        case computeCapabilityMajor = 75
        case computeCapabilityMinor = 76
        case maxSharedMemoryPerBlockOptIn = 97
    }

    /// A text that a function of the driver writes into memory of a given size, with its terminating zero.
    private func text(_ action: String, _ write: (UnsafeMutablePointer<CChar>, Int32) -> CUresult)
        throws(CUDAError) -> String
    {
        let capacity = 256
        var status: CUresult = 0
        let text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: capacity) { buffer in
            buffer.initialize(repeating: 0)
            status = write(buffer.baseAddress!, Int32(capacity))
            return String(cString: buffer.baseAddress!)
        }
        try check(status, action)
        return text
    }
}
