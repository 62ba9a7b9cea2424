import CUDA
import Glibc

/// A library that Tandem looks for at run time, and whether it is here.
public struct SystemLibrary: Sendable, Hashable, Codable {
    public var name: String
    /// The file that the loader finds; nil where there is none.
    public var fileName: String?
    /// What it is needed for, as the end of a sentence.
    public var purpose: String

    /// Looks for the first of the files that the loader finds.
    init(_ name: String, fileNames: [String], purpose: String) {
        self.name = name
        self.purpose = purpose
        fileName = fileNames.first { file in
            guard let library = dlopen(file, RTLD_LAZY | RTLD_LOCAL) else { return false }
            dlclose(library)
            return true
        }
    }

    /// All that Tandem knows a use for.
    static var all: [SystemLibrary] {
        [
            SystemLibrary(
                "libcuda", fileNames: ["libcuda.so.1", "libcuda.so"],
                purpose: "needed to compute on the GPU; it comes with the NVIDIA driver"),
            SystemLibrary(
                "libcublasLt",
                fileNames: CUBLASLt.fileNames,
                purpose: "multiplies prompts where TANDEM_CUBLASLT is 1; else kernels of its own do"),
            SystemLibrary(
                "libnccl", fileNames: ["libnccl.so.2", "libnccl.so"],
                purpose: "needed for several GPUs with --comm-device gpu"),
            SystemLibrary(
                "libmpi", fileNames: ["libmpi.so.40", "libmpi.so.12", "libmpi.so.20", "libmpi.so"],
                purpose: "needed for several processes with --use-mpi, and for --comm-device cpu"),
        ]
    }
}
