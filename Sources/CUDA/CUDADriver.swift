import Glibc

/// The NVIDIA driver of this machine, found at run time: a program that uses it builds and starts without
/// one.
public final class CUDADriver: Sendable {
    /// The CUDA version that the driver offers: 1000 * major + 10 * minor, 12040 for 12.4.
    public let version: Int
    public let deviceCount: Int
    let functions: DriverFunctions
    /// Of each device.
    let waitingKernels: [WaitingKernels]

    private static let shared = Result { () throws(CUDAError) in try CUDADriver(libraryNames: libraryNames) }
    private static let libraryNames = ["libcuda.so.1", "libcuda.so"]

    /// The driver, which is looked for once in a process.
    ///
    /// - Throws: `noDriver`, `driverTooOld` or `noDevice`, with a sentence that says what to do.
    public static func load() throws(CUDAError) -> CUDADriver {
        try shared.get()
    }

    /// Opens the first of `libraryNames` that the loader finds. The library stays open to the end of the
    /// process.
    convenience init(libraryNames: [String]) throws(CUDAError) {
        guard let library = libraryNames.lazy.compactMap({ dlopen($0, RTLD_NOW | RTLD_LOCAL) }).first else {
            throw CUDAError(
                .noDriver, action: "looking for the NVIDIA driver",
                reason: """
                    no NVIDIA driver was found (tried \(libraryNames.joined(separator: ", "))). \
                    Install the driver, or add its folder to LD_LIBRARY_PATH; in a container, start it with \
                    access to the GPU; or run on the processor alone
                    """)
        }
        let functions = try DriverFunctions { name in dlsym(library, name) }
        try self.init(functions: functions)
    }

    init(functions: DriverFunctions) throws(CUDAError) {
        self.functions = functions
        var version: Int32 = 0
        var deviceCount: Int32 = 0
        var status = functions.cuInit(0)
        if status == 0 { status = functions.cuDriverGetVersion(&version) }
        if status == 0 { status = functions.cuDeviceGetCount(&deviceCount) }
        self.version = Int(version)
        self.deviceCount = Int(deviceCount)
        waitingKernels = (0..<max(1, Int(deviceCount))).map { _ in WaitingKernels() }
        if status != 0 {
            let advice = "check that `nvidia-smi` lists the GPU and CUDA_VISIBLE_DEVICES does not hide it"
            throw error(
                status, "starting the NVIDIA driver",
                detail: CUDAError.Code(status: status) == .noDevice ? advice : "")
        }
    }

    /// Throws where a call of the driver has failed. `action` says what was being done, after "while".
    @inline(__always)
    func check(_ status: CUresult, _ action: @autoclosure () -> String) throws(CUDAError) {
        if status != 0 { throw error(status, action()) }
    }

    @inline(never)
    func error(_ status: CUresult, _ action: String, detail: String = "") -> CUDAError {
        var name: UnsafePointer<CChar>?
        var reason: UnsafePointer<CChar>?
        _ = functions.cuGetErrorName(status, &name)
        _ = functions.cuGetErrorString(status, &reason)
        let sentence = reason.map { String(cString: $0) } ?? "the driver gives no reason"
        return CUDAError(
            CUDAError.Code(status: status), action: action, status: status,
            statusName: name.map { String(cString: $0) } ?? "CUresult",
            reason: detail.isEmpty ? sentence : "\(sentence): \(detail)")
    }
}
