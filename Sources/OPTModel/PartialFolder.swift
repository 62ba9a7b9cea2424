import Checkpoints
import FoundationEssentials
import Glibc
import Synchronization
import SystemPackage

/// A folder in the making: it lies beside its place under another name, and comes there whole or not at all.
public final class PartialFolder: Sendable {
    private enum Phase {
        case planned
        case open
        case published
        case removed
    }

    public let output: FilePath
    let path: FilePath
    /// Held while a file is made and while the folder goes to its place or away: neither meets the other halfway.
    private let phase = Mutex(Phase.planned)

    /// - Parameters:
    ///   - output: where the folder is to be, and nothing is.
    ///   - byteCount: what will be written.
    ///   - free: the bytes that are free in a folder; nil where the system does not tell.
    public init(
        for output: FilePath, byteCount: Int,
        free: (FilePath) -> Int? = { OffloadFile.availableByteCount(in: $0) }
    ) throws(ModelError) {
        self.output = output
        var status = stat()
        guard lstat(output.string, &status) != 0 else { throw Self.occupied(output) }
        let parent = Self.parent(of: output)
        if let free = free(parent), byteCount > free {
            throw ModelError(
                .output, file: output,
                "the converted model takes \(byteCount.byteSize(rounding: .up)), and in \(parent) "
                    + "\(free.byteSize(rounding: .down)) are free; name a folder on a disk with room with --output"
            )
        }
        var path: FilePath
        var count = 0
        repeat {
            path = FilePath("\(output).partial-\(getpid())\(count == 0 ? "" : "-\(count)")")
            count += 1
        } while lstat(path.string, &status) == 0
        self.path = path
    }

    /// A library's caller may drop it; whoever ends the process must call `remove`.
    deinit { remove() }

    /// Makes it, empty.
    func make() throws(ModelError) {
        let result = phase.withLock { phase in
            Result { () throws(ModelError) in
                guard phase == .planned else { throw .cancelledConversion }
                if mkdir(path.string, 0o777) != 0 {
                    throw ModelError(
                        .output, file: output,
                        "a folder cannot be made in \(Self.parent(of: output)): "
                            + "\(String(cString: strerror(errno))); name another with --output")
                }
                phase = .open
            }
        }
        try result.get()
    }

    /// A new file of the folder.
    func file(_ name: String) throws(ModelError) -> OutputFile {
        let result = phase.withLock { phase in
            Result { () throws(ModelError) -> OutputFile in
                guard phase == .open else { throw .cancelledConversion }
                do {
                    return try OutputFile(path.appending(name))
                } catch {
                    throw ModelError(converting: error)
                }
            }
        }
        return try result.get()
    }

    /// Writes a whole file.
    func write(_ bytes: [UInt8], to name: String) throws(ModelError) {
        let file = try file(name)
        do {
            try file.write(bytes)
            try file.synchronize()
        } catch {
            throw ModelError(converting: error)
        }
    }

    func checkNotRemoved() throws(ModelError) {
        if phase.withLock({ $0 == .removed }) { throw .cancelledConversion }
    }

    /// Brings the folder, whose files have been synchronised, to its place.
    func publish() throws(ModelError) {
        let result = phase.withLock { phase in
            Result { () throws(ModelError) in
                guard phase == .open else { throw .cancelledConversion }
                Self.synchronize(path)
                // Takes the place of nothing but an empty folder.
                if rename(path.string, output.string) != 0 {
                    if [EEXIST, ENOTEMPTY, ENOTDIR].contains(errno) { throw Self.occupied(output) }
                    throw ModelError(
                        .output, file: output,
                        "\(path) cannot be renamed to \(output): \(String(cString: strerror(errno)))")
                }
                Self.synchronize(Self.parent(of: output))
                phase = .published
            }
        }
        try result.get()
    }

    /// Removes everything that was written, unless it has come to its place. Any thread may call it at any time.
    public func remove() {
        phase.withLock { phase in
            if phase == .planned { phase = .removed }
            guard phase == .open else { return }
            try? FileManager.default.removeItem(atPath: path.string)
            phase = .removed
        }
    }

    private static func occupied(_ output: FilePath) -> ModelError {
        ModelError(
            .output, file: output,
            "\(output) exists already, and nothing is written over; name a new folder with --output, or remove that one"
        )
    }

    private static func parent(of path: FilePath) -> FilePath {
        let parent = path.removingLastComponent()
        return parent.isEmpty ? "." : parent
    }

    /// A folder's entries.
    private static func synchronize(_ folder: FilePath) {
        let descriptor = open(folder.string, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        fsync(descriptor)
        close(descriptor)
    }
}

extension ModelError {
    static let cancelledConversion = ModelError(
        .cancelled, "the conversion was cancelled, and what it had written is removed")
}
