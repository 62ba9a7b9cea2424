import Synchronization

@testable import CUDA

/// A driver of which every function returns 0 at once, or another status, and that notes the last launch. It
/// shows what the driver would be given, on a machine without one.
enum RecordingDriver {
    struct Launch {
        var configuration: LaunchConfiguration
        var attribute: LaunchAttribute?
        var parameter: SIMD4<UInt32>
    }

    nonisolated(unsafe) static var lastLaunch: Launch?

    private static let succeed: @convention(c) () -> CUresult = { 0 }
    private static let haveNoDevice: @convention(c) () -> CUresult = { 100 }
    private static let runOutOfMemory: @convention(c) () -> CUresult = { 2 }

    private static let noteLaunch:
        @convention(c) (
            UnsafeRawPointer, OpaquePointer?, UnsafeMutablePointer<UnsafeMutableRawPointer?>,
            UnsafeMutablePointer<UnsafeMutableRawPointer?>?
        ) -> CUresult = { configuration, _, parameters, _ in
            let configuration = configuration.load(as: LaunchConfiguration.self)
            lastLaunch = Launch(
                configuration: configuration,
                attribute: configuration.attributeCount == 0 ? nil : configuration.attributes?.pointee,
                parameter: parameters[0]!.loadUnaligned(as: SIMD4<UInt32>.self))
            return 0
        }

    /// The functions; those named in `statuses` return 2 or 100 instead.
    static func functions(statusOf statuses: [String: CUresult] = [:]) throws -> DriverFunctions {
        try DriverFunctions { name in
            if name == "cuLaunchKernelEx" {
                return unsafeBitCast(noteLaunch, to: UnsafeMutableRawPointer.self)
            }
            let stub =
                switch statuses[name] {
                case 2: runOutOfMemory
                case 100: haveNoDevice
                default: succeed
                }
            return unsafeBitCast(stub, to: UnsafeMutableRawPointer.self)
        }
    }

    static func context(computeCapability: Int = 90, statusOf statuses: [String: CUresult] = [:]) throws
        -> Context
    {
        let driver = try CUDADriver(functions: functions(statusOf: statuses))
        let device = Device(
            index: 0, name: "none", computeCapability: computeCapability, totalByteCount: 0,
            multiprocessorCount: 1,
            maxSharedByteCountPerBlock: 0, l2ByteCount: 0, clockRate: 0,
            peakMemoryBandwidth: 0, pciBusID: "", handle: 0, driver: driver)
        return try Context(device: device)
    }
}
