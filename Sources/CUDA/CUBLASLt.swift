import Glibc

/// NVIDIA's library of matrix products, found at run time: a program that uses it builds and starts without it.
public final class CUBLASLt: @unchecked Sendable {  // addresses of code
    typealias Handle = OpaquePointer?
    typealias Status = Int32

    /// As the loader found it.
    public let fileName: String
    /// 10000 * major + 100 * minor + patch.
    public let version: Int

    let create: @convention(c) (UnsafeMutablePointer<OpaquePointer?>) -> Status
    let destroy: @convention(c) (Handle) -> Status
    let makeDescription: @convention(c) (UnsafeMutablePointer<OpaquePointer?>, Int32, Int32) -> Status
    let setOfDescription: @convention(c) (Handle, Int32, UnsafeRawPointer, Int) -> Status
    let destroyDescription: @convention(c) (Handle) -> Status
    let makeLayout:
        @convention(c) (UnsafeMutablePointer<OpaquePointer?>, Int32, UInt64, UInt64, Int64) -> Status
    let destroyLayout: @convention(c) (Handle) -> Status
    let makePreference: @convention(c) (UnsafeMutablePointer<OpaquePointer?>) -> Status
    let setOfPreference: @convention(c) (Handle, Int32, UnsafeRawPointer, Int) -> Status
    let destroyPreference: @convention(c) (Handle) -> Status
    let choose:
        @convention(c) (
            Handle, Handle, Handle, Handle, Handle, Handle, Handle, Int32, UnsafeMutableRawPointer,
            UnsafeMutablePointer<Int32>
        ) -> Status
    let multiply:
        @convention(c) (
            Handle, Handle, UnsafeRawPointer, DeviceAddress, Handle, DeviceAddress, Handle, UnsafeRawPointer,
            DeviceAddress, Handle, DeviceAddress, Handle, UnsafeRawPointer, DeviceAddress, Int, Handle
        ) -> Status

    /// Where it is looked for, in order.
    public static let fileNames = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"]

    /// The library, which is looked for once in a process; an error that says why there is none.
    public static let shared = Result { () throws(CUDAError) in try CUBLASLt(fileNames: fileNames) }

    /// The library where the environment's `TANDEM_CUBLASLT` is 1; nil without it.
    ///
    /// It is not the default: a process's first products take it 0.13 s to load, longer than most prompts take the
    /// kernels here (`docs/performance.md`). It pays from some ten thousand tokens of prompts on.
    ///
    /// - Throws: where it is asked for and not found.
    public static func chosen() throws(CUDAError) -> CUBLASLt? {
        guard let value = getenv("TANDEM_CUBLASLT"), String(cString: value) == "1" else { return nil }
        return try shared.get()
    }

    private static let looking = "looking for cuBLASLt"

    init(fileNames: [String]) throws(CUDAError) {
        var found: (name: String, library: UnsafeMutableRawPointer)?
        for name in fileNames where found == nil {
            if let library = dlopen(name, RTLD_NOW | RTLD_LOCAL) { found = (name, library) }
        }
        guard let found else {
            throw CUDAError(
                .other, action: Self.looking,
                reason: "none of \(fileNames.joined(separator: ", ")) can be loaded")
        }
        func function<Function>(_ name: String) throws(CUDAError) -> Function {
            guard let address = dlsym(found.library, name) else {
                throw CUDAError(.other, action: Self.looking, reason: "\(found.name) has no \(name)")
            }
            return unsafeBitCast(address, to: Function.self)
        }
        fileName = found.name
        let versionOfLibrary: @convention(c) () -> Int = try function("cublasLtGetVersion")
        version = versionOfLibrary()
        create = try function("cublasLtCreate")
        destroy = try function("cublasLtDestroy")
        makeDescription = try function("cublasLtMatmulDescCreate")
        setOfDescription = try function("cublasLtMatmulDescSetAttribute")
        destroyDescription = try function("cublasLtMatmulDescDestroy")
        makeLayout = try function("cublasLtMatrixLayoutCreate")
        destroyLayout = try function("cublasLtMatrixLayoutDestroy")
        makePreference = try function("cublasLtMatmulPreferenceCreate")
        setOfPreference = try function("cublasLtMatmulPreferenceSetAttribute")
        destroyPreference = try function("cublasLtMatmulPreferenceDestroy")
        choose = try function("cublasLtMatmulAlgoGetHeuristic")
        multiply = try function("cublasLtMatmul")
    }
}
