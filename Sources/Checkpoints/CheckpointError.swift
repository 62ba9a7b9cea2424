import SystemPackage

/// Why a checkpoint cannot be used: where the fault lies, and a sentence with the way out.
public struct CheckpointError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The folder does not exist or is none.
        case missingFolder
        /// The folder holds none of the formats that can be read.
        case missingCheckpoint
        /// A shard that an index names does not exist.
        case missingFile
        case missingTensor
        /// The operating system refused to open or read a file; the sentence holds its reason.
        case unreadable
        /// The operating system refused to write a file.
        case unwritable
        /// The file ends before what it declares.
        case truncated
        /// The file contradicts its format or itself.
        case malformed
        /// The file is sound, as far as was looked, but of a kind that is not read.
        case unsupported
        case wrongShape
        /// Two stored tensors claim one name.
        case ambiguousName
        /// A finite value is too large for fp16.
        case overflow
        /// A value is infinite or no number, where it must be one.
        case notFinite
        /// The bytes are not those that were written.
        case damaged
        /// The file was cut or replaced after it was opened.
        case changed
    }

    public let code: Code
    public let file: FilePath
    public let tensor: String?
    /// Where in `file` the fault lies.
    public let byteOffset: Int?
    public let sentence: String

    public init(
        _ code: Code, file: FilePath, tensor: String? = nil, byteOffset: Int? = nil, _ sentence: String
    ) {
        self.code = code
        self.file = file
        self.tensor = tensor
        self.byteOffset = byteOffset
        self.sentence = sentence
    }

    public var description: String {
        var place = file.string
        if let tensor { place += ", tensor \(tensor)" }
        if let byteOffset { place += ", byte \(byteOffset)" }
        return place + ": " + sentence
    }
}
