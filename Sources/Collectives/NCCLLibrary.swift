import Glibc
import SystemShims

/// NVIDIA's library of collectives between GPUs, found at run time, as `nccl.h` (2.x) declares it.
final class NCCLLibrary: @unchecked Sendable {  // addresses of code
    typealias Status = Int32
    typealias Handle = OpaquePointer?

    /// Such as "NCCL 2.27.3".
    let version: String
    let getUniqueID: @convention(c) (UnsafeMutablePointer<tandem_bytes_128>) -> Status
    let initRank: @convention(c) (UnsafeMutablePointer<Handle>, Int32, tandem_bytes_128, Int32) -> Status
    let errorString: @convention(c) (Status) -> UnsafePointer<CChar>?
    let lastError: (@convention(c) (Handle) -> UnsafePointer<CChar>?)?
    let asynchronousError: @convention(c) (Handle, UnsafeMutablePointer<Status>) -> Status
    let allReduce:
        @convention(c) (
            UnsafeRawPointer?, UnsafeMutableRawPointer?, Int, Int32, Int32, Handle, Handle
        ) -> Status
    let send: @convention(c) (UnsafeRawPointer?, Int, Int32, Int32, Handle, Handle) -> Status
    let receive: @convention(c) (UnsafeMutableRawPointer?, Int, Int32, Int32, Handle, Handle) -> Status
    let groupStart: @convention(c) () -> Status
    let groupEnd: @convention(c) () -> Status

    /// `ncclFloat32`, `ncclSum`, `ncclInProgress`.
    static let float: Int32 = 7
    static let sum: Int32 = 0
    static let inProgress: Status = 7
    private static let names = ["libnccl.so.2", "libnccl.so"]

    /// Looked for once in a process.
    static let shared = Result { () throws(CollectiveError) in try NCCLLibrary(names: names) }

    init(names: [String]) throws(CollectiveError) {
        guard let library = names.lazy.compactMap({ dlopen($0, RTLD_NOW | RTLD_LOCAL) }).first else {
            throw CollectiveError(
                .missingLibrary,
                "NCCL was not found (tried \(names.joined(separator: ", "))): install it, or add its folder to "
                    + "LD_LIBRARY_PATH, or exchange by way of CPU memory with --use-mpi --comm-device cpu")
        }
        func function<Function>(_ name: String) throws(CollectiveError) -> Function {
            guard let address = dlsym(library, name) else {
                throw CollectiveError(
                    .missingLibrary, "the NCCL library has no \(name): install release 2.18 or newer")
            }
            return unsafeBitCast(address, to: Function.self)
        }
        let getVersion: @convention(c) (UnsafeMutablePointer<Int32>) -> Status = try function(
            "ncclGetVersion")
        var number: Int32 = 0
        _ = getVersion(&number)
        version = "NCCL \(number / 10000).\(number / 100 % 100).\(number % 100)"
        getUniqueID = try function("ncclGetUniqueId")
        initRank = try function("ncclCommInitRank")
        errorString = try function("ncclGetErrorString")
        lastError = dlsym(library, "ncclGetLastError").map {
            unsafeBitCast($0, to: (@convention(c) (Handle) -> UnsafePointer<CChar>?).self)
        }
        asynchronousError = try function("ncclCommGetAsyncError")
        allReduce = try function("ncclAllReduce")
        send = try function("ncclSend")
        receive = try function("ncclRecv")
        groupStart = try function("ncclGroupStart")
        groupEnd = try function("ncclGroupEnd")
    }

    /// Throws where a call has failed. `action` says what was being done, after "while".
    @inline(__always)
    func check(_ status: Status, _ communicator: Handle, _ action: @autoclosure () -> String)
        throws(CollectiveError)
    {
        if status != 0 && status != Self.inProgress { throw error(status, communicator, action()) }
    }

    @inline(never)
    private func error(_ status: Status, _ communicator: Handle, _ action: String) -> CollectiveError {
        let reason = errorString(status).map { String(cString: $0) } ?? "error \(status)"
        let detail = lastError?(communicator).map { String(cString: $0) } ?? ""
        return CollectiveError(
            .library,
            "NCCL failed while \(action): \(reason)\(detail.isEmpty ? "" : " (\(detail))")")
    }
}
