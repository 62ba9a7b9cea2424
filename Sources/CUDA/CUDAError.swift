/// What the CUDA driver refused, or that there is none: a code, what was being done, and the driver's own
/// status.
public struct CUDAError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The driver's library is not on this machine.
        case noDriver
        /// The driver lacks a function that is needed, or is too old for the kernel image.
        case driverTooOld
        /// The driver is there, but no GPU that it can use.
        case noDevice
        /// The GPU's memory, or what the system lets a process pin, is used up.
        case outOfMemory
        /// No kernel image runs on this GPU, or the driver's compiler refused it.
        case invalidImage
        /// An image has no kernel of that name.
        case missingKernel
        /// A kernel could not be started, or failed while it ran. The context is lost: every later call fails
        /// too.
        case launchFailed
        /// What was done cannot be captured into a graph.
        case captureFailed
        case other
    }

    public let code: Code
    /// What was being done, after "while".
    public let action: String
    /// The driver's `CUresult`; 0 where no call was made.
    public let status: Int32
    /// The status as the driver names it, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    public let statusName: String
    /// The driver's reason, or a sentence that says what to do.
    public let reason: String

    public init(_ code: Code, action: String, status: Int32 = 0, statusName: String = "", reason: String) {
        self.code = code
        self.action = action
        self.status = status
        self.statusName = statusName
        self.reason = reason
    }

    public var description: String {
        statusName.isEmpty
            ? "while \(action): \(reason)" : "while \(action): \(reason) (\(statusName), \(status))"
    }
}

extension CUDAError.Code {
    /// The code for a `CUresult`.
    init(status: Int32) {
        self =
            switch status {
            case 34: .noDriver
            case 222, 803, 804: .driverTooOld
            case 46, 100, 101, 802: .noDevice
            case 2: .outOfMemory
            case 200, 209, 218, 221, 223, 300: .invalidImage
            case 500: .missingKernel
            case 700...702, 710, 714...719: .launchFailed
            case 900...908: .captureFailed
            default: .other
            }
    }
}
