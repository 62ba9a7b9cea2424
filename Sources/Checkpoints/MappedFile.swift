import Glibc
import SystemPackage

/// A file mapped for reading, whose pages are given back as soon as they were read.
///
/// Mapped pages count towards the process's resident memory, so loading through them would seem to double the
/// weights; `withBytes` drops what it lent. A dropped page that another thread still reads is faulted in
/// again from the page cache: that costs time and is never wrong.
///
/// `@unchecked Sendable`: the memory is mapped read-only and unmapped only when the last owner is gone.
final class MappedFile: @unchecked Sendable {
    let path: FilePath
    let byteCount: Int
    private let base: UnsafeRawPointer?
    private let device: dev_t
    private let inode: ino_t

    init(_ path: FilePath) throws(CheckpointError) {
        let descriptor = open(path.string, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw CheckpointError(
                errno == ENOENT ? .missingFile : .unreadable, file: path,
                "The file cannot be opened: \(Self.systemMessage()).")
        }
        // The mapping outlives the descriptor. Kept open, a folder with a file a tensor would use up the 1024
        // descriptors that a process is usually allowed.
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw CheckpointError(.unreadable, file: path, "This is not a regular file.")
        }
        self.path = path
        byteCount = Int(status.st_size)
        device = status.st_dev
        inode = status.st_ino
        if byteCount == 0 {
            base = nil
            return
        }
        guard let mapping = mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor, 0), mapping != MAP_FAILED
        else {
            throw CheckpointError(
                .unreadable, file: path, "The file cannot be mapped into memory: \(Self.systemMessage()).")
        }
        base = UnsafeRawPointer(mapping)
    }

    deinit {
        if let base { munmap(UnsafeMutableRawPointer(mutating: base), byteCount) }
    }

    /// A copy of a range of the file: headers and directories.
    func bytes(_ range: Range<Int>) throws(CheckpointError) -> [UInt8] {
        var copy: [UInt8] = []
        try withBytes(range, isDense: true, tensor: nil) { bytes in
            copy = [UInt8](UnsafeRawBufferPointer(start: bytes, count: range.count))
        }
        return copy
    }

    /// Lends a range of the file and drops its pages afterwards. `isDense`: most of it will be read.
    func withBytes(
        _ range: Range<Int>, isDense: Bool, tensor: String?, _ body: (UnsafeRawPointer) -> Void
    ) throws(CheckpointError) {
        guard range.lowerBound >= 0, range.upperBound <= byteCount else {
            throw CheckpointError(
                .truncated, file: path, tensor: tensor, byteOffset: range.lowerBound,
                "\(range.count) bytes should stand here, and the file ends at byte \(byteCount). Download "
                    + "it again."
            )
        }
        try checkUnchanged(tensor: tensor, byteOffset: range.lowerBound)
        guard let base, !range.isEmpty else { return }
        if isDense {
            let start = range.lowerBound / 4096 * 4096
            let populated = madvise(
                UnsafeMutableRawPointer(mutating: base + start), range.upperBound - start, Self.populateRead)
            // Kernels before 5.14 do not know the advice and answer EINVAL: pages are then faulted in one by one.
            if populated != 0, errno == EFAULT || errno == EIO || errno == EHWPOISON {
                throw CheckpointError(
                    .unreadable, file: path, tensor: tensor, byteOffset: range.lowerBound,
                    "The disk cannot read these bytes, or the file was cut short just now: "
                        + "\(Self.systemMessage()).")
            }
        }
        body(base + range.lowerBound)
        // The page cache holds files in blocks of up to 2 MiB, and a fault maps all of one: drop as much around.
        let window = 2 << 20
        let start = range.lowerBound / window * window
        let end = min(byteCount, (range.upperBound + window - 1) / window * window)
        madvise(UnsafeMutableRawPointer(mutating: base + start), end - start, MADV_DONTNEED)
    }

    /// Asks the disk for a range that will be read soon.
    func willNeed(_ range: Range<Int>) {
        guard let base, range.lowerBound < range.upperBound, range.upperBound <= byteCount else { return }
        let start = range.lowerBound / 65536 * 65536
        madvise(UnsafeMutableRawPointer(mutating: base + start), range.upperBound - start, MADV_WILLNEED)
    }

    /// Touching a mapped page behind the end of a file that was cut kills the process, so look before.
    private func checkUnchanged(tensor: String?, byteOffset: Int) throws(CheckpointError) {
        var status = stat()
        let found = stat(path.string, &status) == 0 && status.st_dev == device && status.st_ino == inode
        if found, Int(status.st_size) == byteCount { return }
        throw CheckpointError(
            .changed, file: path, tensor: tensor, byteOffset: byteOffset,
            (found
                ? "The file had \(byteCount) bytes when it was opened and has \(status.st_size) now. "
                : "The file was removed or replaced after it was opened. ")
                + "Leave the checkpoint as it is until it is loaded, then start again.")
    }

    /// MADV_POPULATE_READ: maps all pages in one call, and answers EFAULT where touching them would kill.
    private static let populateRead: Int32 = 22

    private static func systemMessage() -> String { Errno(rawValue: errno).description }
}
