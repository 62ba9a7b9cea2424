import CUDA
import Checkpoints
import Collectives
import HostRuntime
import SystemPackage

/// What stands between a folder and a running model, in a sentence that says what to do.
public struct ModelError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        case missingFile
        case invalidConfiguration
        case checkpoint
        case outOfMemory
        case gpu
        case cpu
        case offload
        case group
        /// A folder cannot be written.
        case output
        case cancelled
    }

    public let code: Code
    public let file: FilePath?
    /// What is wrong.
    public let reason: String
    /// What to do about it; nil where the reason says that, too.
    public let advice: String?

    public init(_ code: Code, file: FilePath? = nil, _ reason: String, advice: String? = nil) {
        self.code = code
        self.file = file
        self.reason = reason
        self.advice = advice
    }

    public var description: String { advice.map { "\(reason); \($0)" } ?? reason }

    static let stoppedWorker = ModelError(
        .cpu,
        "a thread that computes the CPU's part stopped in the middle of a step and does not come back; the step was given "
            + "up")

    init(_ error: CUDAError) {
        self.init(error.code == .outOfMemory ? .outOfMemory : .gpu, error.description)
    }

    /// What stopped a step of loading.
    init(loading error: any Error) {
        switch error {
        case let error as ModelError: self = error
        case let error as CUDAError: self.init(error)
        case let error as CollectiveError: self.init(.group, error.description)
        case let error as HostMemoryError: self.init(.outOfMemory, error.description)
        default: self.init(.gpu, "\(error)")
        }
    }

    /// What stopped a conversion.
    init(converting error: any Error) {
        switch error {
        case let error as ModelError: self = error
        case let error as CheckpointError:
            self.init(error.code == .unwritable ? .output : .checkpoint, file: error.file, error.description)
        default: self.init(loading: error)
        }
    }
}
