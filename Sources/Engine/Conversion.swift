import Checkpoints
import HostRuntime
import OPTModel
import SystemPackage
import TensorCore

/// Writes a model's folder with the layers' matrices quantized, which loads faster and takes less room.
///
/// The folder comes to its place whole, at the end of `run`, or not at all.
public final class Conversion: Sendable {
    public struct Options: Sendable {
        /// Threads that convert; nil for one on each processor.
        public var threadCount: Int?
        /// nil for the fastest that this processor has.
        public var instructionSet: InstructionSet?
        /// The seed of random weights.
        public var randomWeightsSeed: UInt64 = 0

        public init() {}
    }

    /// The model, quantized.
    public let configuration: OPTConfiguration
    private let model: ModelReference
    private let source: any TensorSource
    private let folder: PartialFolder
    private let instructionSet: InstructionSet
    private let threadCount: Int?

    /// Makes sure that the model can be converted and that the folder has room. Nothing is written before `run`.
    public init(
        _ model: ModelReference, to output: FilePath, _ quantization: Quantization,
        options: Options = Options()
    ) throws {
        let original = try model.configuration
        if let quantization = original.quantization {
            throw EngineError(
                .invalidOption,
                "\(original.name) has been quantized to \(quantization.bits) bits already; give the model that it was "
                    + "converted from")
        }
        if let problem = original.quantizationProblem {
            throw EngineError(.invalidOption, problem + "; it can only be used as it is")
        }
        guard let instructionSet = options.instructionSet ?? InstructionSet.available.first,
            instructionSet.kernels != nil
        else {
            throw EngineError(.invalidOption, "this processor lacks the instruction set that was asked for")
        }
        if let count = options.threadCount, count < 1 || count > 1024 {
            throw EngineError(.invalidOption, "\(count) threads were asked for; give 1 to 1024")
        }
        configuration = try original.quantized(quantization)
        source = try model.source(randomWeightsSeed: options.randomWeightsSeed)
        folder = try PartialFolder(for: output, byteCount: configuration.convertedByteCount)
        self.model = model
        self.instructionSet = instructionSet
        threadCount = options.threadCount
    }

    /// Converts, on threads of its own.
    ///
    /// - Parameter progress: called now and then, on any thread, with the bytes that are done and the total.
    public func run(progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in })
        async throws
    {
        let pool = WorkerPool(workerCount: threadCount)
        try await LeaderThread(pool: pool).perform { [self] () throws -> Void in
            let source: any TensorSource = source
            try write(from: source, on: pool, progress: progress)
        }
    }

    private func write(
        from source: some TensorSource, on pool: WorkerPool, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws {
        let converter = CheckpointConverter(
            configuration, from: source, pool: pool, kernels: instructionSet.kernels!)
        try converter.write(to: folder, original: model.configurationFolder, progress: progress)
    }

    /// Removes what was written and lets `run` end with an error; of no effect once the folder is in its place. Any
    /// thread may call it at any time.
    public func cancel() { folder.remove() }
}
