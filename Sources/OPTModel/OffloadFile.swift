import FoundationEssentials
import Glibc
import Placement
import Synchronization
import SystemPackage

/// The file of what lives on disk: without a name, so that nothing is left of it when the program ends, however it ends.
///
/// It is read and written directly, past the system's page cache: what one token needs would only drive out what the
/// last one did. Weights are written once, while the model is loaded; keys and values in every step.
public final class OffloadFile: Sendable {
    let folder: FilePath
    /// What the file holds, as sentences name it.
    let contents: String
    /// The system reads and writes whole blocks at multiples of it.
    static let alignment = 4096

    /// The next multiple of `alignment`.
    static func aligned(_ byteCount: Int) -> Int { divideUp(byteCount, alignment) * alignment }

    let descriptor: Int32
    /// Whether the page cache is left out; some file systems cannot.
    let isDirect: Bool

    /// - Parameter folder: made where it is not there.
    init(in folder: FilePath, holding contents: String = "weights") throws(ModelError) {
        self.folder = folder
        self.contents = contents
        // With all that it lies in: a new user has no ~/.cache.
        try? FileManager.default.createDirectory(
            atPath: folder.string, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        var descriptor: Int32 = -1
        var isDirect = true
        for direct in [true, false] where descriptor < 0 {
            isDirect = direct
            descriptor = Self.open(folder, extraFlags: direct ? Self.directFlag : 0)
        }
        guard descriptor >= 0 else {
            throw ModelError(
                .offload, file: folder,
                "no file for offloaded \(contents) can be made in \(folder): \(String(cString: strerror(errno))); "
                    + Self.advice)
        }
        self.descriptor = descriptor
        self.isDirect = isDirect
    }

    deinit { close(descriptor) }

    /// The bytes that are free on the disk of a folder; nil where the system does not tell.
    public static func availableByteCount(in folder: FilePath) -> Int? {
        var status = statvfs()
        var folder = folder
        while statvfs(folder.string, &status) != 0 {
            if errno != ENOENT || !folder.removeLastComponent() { return nil }
        }
        return Int(status.f_bavail) * Int(status.f_frsize)
    }

    private static let advice = "name a folder on a disk with room with --offload-dir"

    /// Takes the room of so many bytes, which read as zeros until they are written: a full disk shows now.
    func reserve(byteCount: Int) throws(ModelError) {
        func refusal(_ reason: String) -> ModelError {
            ModelError(
                .offload, file: folder,
                "\(byteCount.byteSize(rounding: .up)) of offloaded \(contents) have no room in \(folder): "
                    + "\(reason); \(Self.advice)")
        }
        // Asked first, as reserving what is not there fills the disk for a moment.
        if let available = Self.availableByteCount(in: folder), byteCount > available {
            throw refusal("\(available.byteSize(rounding: .down)) are free")
        }
        var status: Int32
        repeat { status = posix_fallocate(descriptor, 0, off_t(byteCount)) } while status == EINTR
        if status == 0 { return }
        // Where the file system cannot reserve, the file gets its length.
        guard [EOPNOTSUPP, ENOSYS, EINVAL].contains(status), ftruncate(descriptor, off_t(byteCount)) == 0
        else {
            throw refusal(String(cString: strerror(status)))
        }
    }

    /// What has been written, in bytes.
    let byteCount = Atomic<Int>(0)

    /// Writes aligned bytes at an aligned place.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(ModelError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                throw ModelError(
                    .offload, file: folder,
                    "writing \(bytes.count) bytes of offloaded \(contents) to \(folder) failed: "
                        + "\(String(cString: strerror(errno))); \(Self.advice)")
            }
            done += count
        }
        byteCount.wrappingAdd(bytes.count, ordering: .relaxed)
    }

    /// Reads aligned bytes from an aligned place; nil, or what went wrong.
    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) -> ModelError? {
        var done = 0
        while done < bytes.count {
            let count = pread(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
            if count < 0 && errno == EINTR { continue }
            if count <= 0 {
                let reason = count == 0 ? "the file ends early" : String(cString: strerror(errno))
                return ModelError(
                    .offload, file: folder,
                    "reading offloaded \(contents) from \(folder) at \(offset) failed: \(reason)")
            }
            done += count
        }
        return nil
    }

    /// Brings what was written to the disk, and out of the page cache where that was used.
    func settle() {
        _ = fdatasync(descriptor)
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
    }

    private static func open(_ folder: FilePath, extraFlags: Int32) -> Int32 {
        let unnamed = Glibc.open(folder.string, Self.unnamedFlags | O_RDWR | extraFlags, 0o600)
        if unnamed >= 0 { return unnamed }
        // A file system without unnamed files: a named one, which loses its name at once.
        var template = Array((folder.string + "/tandem-offload-XXXXXX").utf8CString)
        let named = mkstemp(&template)
        if named < 0 { return -1 }
        unlink(template)
        if extraFlags != 0 && fcntl(named, F_SETFL, extraFlags) != 0 {
            close(named)
            return -1
        }
        return named
    }

    // <fcntl.h> hides both behind feature macros; the values are those of Linux on the two architectures.
    #if arch(arm64)
        private static let directFlag: Int32 = 0o200000
        private static let unnamedFlags: Int32 = 0o20000000 | 0o40000
    #else
        private static let directFlag: Int32 = 0o40000
        private static let unnamedFlags: Int32 = 0o20000000 | 0o200000
    #endif
}
