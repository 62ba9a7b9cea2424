import Glibc
import SystemPackage

/// A new file that any number of threads write at the same time, each its own range.
public final class OutputFile: Sendable {
    public let path: FilePath
    private let descriptor: Int32

    /// Throws where there is such a file already.
    public init(_ path: FilePath) throws(CheckpointError) {
        self.path = path
        descriptor = open(path.string, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        if descriptor < 0 { throw Self.error(path) }
    }

    deinit { close(descriptor) }

    public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(CheckpointError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { throw Self.error(path) }
            done += count
        }
    }

    public func write(_ bytes: [UInt8], at offset: Int = 0) throws(CheckpointError) {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(CheckpointError) in try write(bytes, at: offset) }
        }
        try result.get()
    }

    /// Returns when the disk has it all.
    public func synchronize() throws(CheckpointError) {
        if fsync(descriptor) != 0 { throw Self.error(path) }
    }

    private static func error(_ path: FilePath) -> CheckpointError {
        CheckpointError(
            .unwritable, file: path, "The file cannot be written: \(Errno(rawValue: errno).description).")
    }
}
