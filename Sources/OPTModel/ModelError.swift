import SystemPackage

/// What stands between a folder and a running model, in a sentence that says what to do.
public struct ModelError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        case missingFile
        case invalidConfiguration
        case checkpoint
        case outOfMemory
    }

    public let code: Code
    public let file: FilePath?
    public let description: String

    public init(_ code: Code, file: FilePath? = nil, _ description: String) {
        self.code = code
        self.file = file
        self.description = description
    }
}
