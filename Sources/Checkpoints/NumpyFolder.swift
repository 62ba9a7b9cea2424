import Glibc
import SystemPackage

/// A folder that FlexGen converted: one .npy file a tensor, without extension, named as the tensor.
struct NumpyFolder {
    let tensors: [StoredTensor]

    /// nil where no file is named like one of OPT's tensors.
    init?(_ folder: FilePath) throws(CheckpointError) {
        let names = try Self.fileNames(in: folder).filter(TensorName.isTensorOfOPT).sorted()
        if names.isEmpty { return nil }
        var tensors: [StoredTensor] = []
        for name in names { tensors.append(try NumpyFile(folder.appending(name), name: name).tensor) }
        self.tensors = tensors
    }

    private static func fileNames(in folder: FilePath) throws(CheckpointError) -> [String] {
        guard let directory = opendir(folder.string) else {
            throw CheckpointError(
                .unreadable, file: folder,
                "The folder cannot be listed: \(Errno(rawValue: errno).description).")
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            // The name is read through its pointer: the imported 256-byte tuple may be longer than the
            // record.
            let offset = MemoryLayout<dirent>.offset(of: \.d_name)!
            let name = UnsafeRawPointer(entry).advanced(by: offset).assumingMemoryBound(to: CChar.self)
            names.append(String(cString: name))
        }
        return names
    }
}
