import Glibc

/// An MPI library, found at run time: Open MPI, or MPICH and what shares its binary interface (Intel MPI, MVAPICH).
///
/// The two kinds name communicators, types and operations differently: addresses of variables here, numbers there. Both
/// fit into a machine word, which is how the functions are declared.
final class MPILibrary: @unchecked Sendable {  // addresses of code
    typealias Status = Int32
    typealias Handle = Int

    enum Kind: Sendable {
        case openMPI
        case mpich
    }

    let kind: Kind
    /// What it says of itself, the first line.
    let version: String
    let world, float, byte, sum, noInfo, errorsReturn: Handle
    let sharedMemoryType: Int32
    /// Stands for a send buffer that is the receive buffer.
    let inPlace: UnsafeMutableRawPointer

    let initialize:
        @convention(c) (
            UnsafeMutablePointer<Int32>?, UnsafeMutableRawPointer?, Int32, UnsafeMutablePointer<Int32>
        ) -> Status
    let finalize: @convention(c) () -> Status
    let rank: @convention(c) (Handle, UnsafeMutablePointer<Int32>) -> Status
    let size: @convention(c) (Handle, UnsafeMutablePointer<Int32>) -> Status
    let split: @convention(c) (Handle, Int32, Int32, Handle, UnsafeMutablePointer<Handle>) -> Status
    let setErrorHandler: @convention(c) (Handle, Handle) -> Status
    let errorText: @convention(c) (Status, UnsafeMutablePointer<CChar>, UnsafeMutablePointer<Int32>) -> Status
    let broadcast: @convention(c) (UnsafeMutableRawPointer, Int32, Handle, Int32, Handle) -> Status
    let allReduce:
        @convention(c) (
            UnsafeRawPointer, UnsafeMutableRawPointer, Int32, Handle, Handle, Handle
        ) -> Status
    let gather:
        @convention(c) (
            UnsafeRawPointer, Int32, Handle, UnsafeMutableRawPointer?, UnsafePointer<Int32>,
            UnsafePointer<Int32>, Handle, Int32, Handle
        ) -> Status

    /// Calls may come from any thread, one at a time.
    static let serializedThreads: Int32 = 2
    private static let openMPINames = ["libmpi.so.40", "libmpi.so.20"]
    private static let mpichNames = ["libmpich.so.12", "libmpi.so.12"]

    /// The library of the launcher that started this process; without one the first that is found. Looked for once.
    static let shared = Result { () throws(CollectiveError) in
        try MPILibrary(names: libraryNames(environment: { getenv($0) != nil }))
    }

    /// Where the library is looked for, in order. A process that was started by one kind's `mpirun` must not load the
    /// other's: it would find itself alone.
    static func libraryNames(environment isSet: (String) -> Bool) -> [String] {
        if isSet("OMPI_COMM_WORLD_SIZE") { return openMPINames }
        if isSet("PMI_RANK") || isSet("PMI_FD") || isSet("HYDI_CONTROL_FD") { return mpichNames }
        return openMPINames + mpichNames + ["libmpi.so"]
    }

    init(names: [String]) throws(CollectiveError) {
        // Its own plugins look for its symbols.
        guard let library = names.lazy.compactMap({ dlopen($0, RTLD_NOW | RTLD_GLOBAL) }).first else {
            throw CollectiveError(
                .missingLibrary,
                "no MPI library was found (tried \(names.joined(separator: ", "))): install Open MPI or MPICH, or start "
                    + "the ranks with --rank, --local-rank and --world-size")
        }
        func address(_ name: String) throws(CollectiveError) -> UnsafeMutableRawPointer {
            guard let address = dlsym(library, name) else {
                throw CollectiveError(
                    .missingLibrary, "the MPI library has no \(name): install Open MPI or MPICH")
            }
            return address
        }
        func function<Function>(_ name: String) throws(CollectiveError) -> Function {
            unsafeBitCast(try address(name), to: Function.self)
        }
        let getVersion: @convention(c) (UnsafeMutablePointer<CChar>, UnsafeMutablePointer<Int32>) -> Status =
            try function("MPI_Get_library_version")
        // MPICH's longest.
        var text = [CChar](repeating: 0, count: 8193)
        var length: Int32 = 0
        _ = getVersion(&text, &length)
        let version = String(decoding: text.prefix(Int(length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.version = version.split(separator: "\n").first.map(String.init) ?? version
        if version.contains("Open MPI") {
            kind = .openMPI
            func handle(_ name: String) throws(CollectiveError) -> Handle {
                Int(bitPattern: try address(name))
            }
            world = try handle("ompi_mpi_comm_world")
            float = try handle("ompi_mpi_float")
            byte = try handle("ompi_mpi_byte")
            sum = try handle("ompi_mpi_op_sum")
            noInfo = try handle("ompi_mpi_info_null")
            errorsReturn = try handle("ompi_mpi_errors_return")
            sharedMemoryType = 0
            inPlace = UnsafeMutableRawPointer(bitPattern: 1)!
        } else {
            kind = .mpich
            world = 0x4400_0000
            float = 0x4c00_040a
            byte = 0x4c00_010d
            sum = 0x5800_0003
            noInfo = 0x1c00_0000
            errorsReturn = 0x5400_0001
            sharedMemoryType = 1
            inPlace = UnsafeMutableRawPointer(bitPattern: -1)!
        }
        initialize = try function("MPI_Init_thread")
        finalize = try function("MPI_Finalize")
        rank = try function("MPI_Comm_rank")
        size = try function("MPI_Comm_size")
        split = try function("MPI_Comm_split_type")
        setErrorHandler = try function("MPI_Comm_set_errhandler")
        errorText = try function("MPI_Error_string")
        broadcast = try function("MPI_Bcast")
        allReduce = try function("MPI_Allreduce")
        gather = try function("MPI_Gatherv")
    }

    /// Throws where a call has failed. `action` says what was being done, after "while".
    @inline(__always)
    func check(_ status: Status, _ action: @autoclosure () -> String) throws(CollectiveError) {
        if status != 0 { throw error(status, action()) }
    }

    @inline(never)
    private func error(_ status: Status, _ action: String) -> CollectiveError {
        var text = [CChar](repeating: 0, count: 1024)
        var length: Int32 = 0
        _ = errorText(status, &text, &length)
        let reason = String(
            decoding: text.prefix(Int(length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return CollectiveError(.library, "MPI failed while \(action): \(reason)")
    }
}
