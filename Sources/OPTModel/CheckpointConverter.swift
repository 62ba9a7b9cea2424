import CPUKernels
import Checkpoints
import HostRuntime
import Synchronization
import SystemPackage
import TensorCore

/// Writes a model's folder with quantized weights; `docs/quantization.md` has its contents.
///
/// It loads a few matrices as a lane would, to the memory that they would have there, and writes that memory: what is read
/// from the folder later is what quantizing while loading makes, byte for byte.
public struct CheckpointConverter<Source: TensorSource> {
    /// Quantized.
    private let configuration: OPTConfiguration
    private let source: Source
    private let checkpoint: ConvertedCheckpoint
    private let pool: WorkerPool
    private let kernels: UnsafePointer<tandem_cpu_kernels>

    /// The tensors that are in memory at a time, unless one alone is larger.
    private static var batchByteCount: Int { 256 << 20 }

    public init(
        _ configuration: OPTConfiguration, from source: Source, pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) {
        self.init(
            configuration, from: source, pool: pool, kernels: kernels,
            mostFileByteCount: ConvertedCheckpoint.mostFileByteCount)
    }

    init(
        _ configuration: OPTConfiguration, from source: Source, pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>, mostFileByteCount: Int
    ) {
        precondition(configuration.quantization != nil, "CheckpointConverter: \(configuration) has no form")
        self.configuration = configuration
        self.source = source
        self.pool = pool
        self.kernels = kernels
        checkpoint = ConvertedCheckpoint(configuration, mostFileByteCount: mostFileByteCount)
    }

    /// Writes the folder and brings it to its place; where that fails, nothing stays.
    ///
    /// - Parameters:
    ///   - original: the folder with the model's configuration and tokenizer; nil where there is none.
    ///   - progress: called now and then, on any thread, with the bytes that are done and the total.
    public func write(
        to folder: PartialFolder, original: FilePath?, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws(ModelError) {
        do {
            try folder.make()
            try writeSmallFiles(to: folder, original: original)
            var done = 0
            for file in checkpoint.files { try write(file, to: folder, done: &done, progress) }
            try folder.publish()
        } catch {
            folder.remove()
            throw error
        }
    }

    private func writeSmallFiles(to folder: PartialFolder, original: FilePath?) throws(ModelError) {
        let quantization = configuration.quantization!
        let text =
            try original.map { path throws(ModelError) in
                try OPTConfiguration.text(of: path, quantization: quantization)
            } ?? configuration.text(quantization: quantization)
        try folder.write(Array(text.utf8), to: OPTConfiguration.fileName)
        if let index = checkpoint.index {
            try folder.write(Array(index.utf8), to: ConvertedCheckpoint.indexName)
        }
        if let original { try folder.copyTextFiles(from: original) }
    }

    private func write(
        _ file: ConvertedCheckpoint.File, to folder: PartialFolder, done: inout Int,
        _ progress: @escaping @Sendable (Int, Int) -> Void
    ) throws(ModelError) {
        let total = checkpoint.tensorByteCount
        let output = try folder.file(file.name)
        let digests = UnsafeMutablePointer<UInt32>.allocate(capacity: file.digestCount)
        defer { digests.deallocate() }
        do {
            try output.write(file.layout.header)
            var first = 0
            var digestIndex = 0
            while first < file.tensors.count {
                try folder.checkNotRemoved()
                let batch = Batch(file.tensors[first...], mostByteCount: Self.batchByteCount)
                let buffer = try HostBuffer(byteCount: batch.slots.byteCount)
                let loader = WeightLoader(source: source, kernels: kernels) { [done, total] count, _ in
                    progress(done + count, total)
                }
                loader.add(batch.slots.slots, to: buffer)
                try loader.load(on: pool)
                let writer = UnitWriter(output, digests: digests)
                for (index, offset) in batch.offsets.enumerated() {
                    let units = file.tensors[first + index].units
                    writer.add(
                        units, at: buffer.baseAddress + offset,
                        fileOffset: file.layout.offsets[first + index], firstDigest: digestIndex)
                    digestIndex += units.count
                }
                try writer.write(on: pool)
                done += batch.slots.slots.reduce(0) { $0 + $1.byteCount }
                first += batch.offsets.count
            }
            for index in 0..<file.digestCount { digests[index] = digests[index].littleEndian }
            try output.write(
                UnsafeRawBufferPointer(UnsafeBufferPointer(start: digests, count: file.digestCount)),
                at: file.digestsOffset)
            try output.synchronize()
        } catch {
            throw ModelError(converting: error)
        }
    }

    /// Tensors that are in memory together, one at least.
    private struct Batch {
        var slots = SlotLayout()
        /// Of each tensor, in bytes.
        var offsets: [Int] = []

        init(_ tensors: ArraySlice<ConvertedCheckpoint.Tensor>, mostByteCount: Int) {
            for tensor in tensors {
                if !offsets.isEmpty && slots.byteCount + tensor.byteCount > mostByteCount { break }
                offsets.append(tensor.reserve(in: &slots))
            }
        }
    }
}

/// Takes the digests of tensors in memory and writes them to a file, in runs that threads take one after another.
private final class UnitWriter: WorkerTask, @unchecked Sendable {  // runs have bytes of their own
    private struct Run {
        var units: DigestUnits
        var range: Range<Int>
        /// Of the tensor.
        var base: UnsafeRawPointer
        var fileOffset: Int
        var digests: UnsafeMutablePointer<UInt32>
    }

    private let file: OutputFile
    private let digests: UnsafeMutablePointer<UInt32>
    private var runs: [Run] = []
    private let nextRun = Atomic<Int>(0)
    private let failure = Mutex<CheckpointError?>(nil)

    private static let runByteCount = 4 << 20

    init(_ file: OutputFile, digests: UnsafeMutablePointer<UInt32>) {
        self.file = file
        self.digests = digests
    }

    /// Adds a tensor; its memory must outlive the writing.
    func add(_ units: DigestUnits, at base: UnsafeRawPointer, fileOffset: Int, firstDigest: Int) {
        if units.count == 0 { return }
        let step = max(1, Self.runByteCount / max(1, units.byteCount / units.count))
        for lower in stride(from: 0, to: units.count, by: step) {
            runs.append(
                Run(
                    units: units, range: lower..<min(lower + step, units.count), base: base,
                    fileOffset: fileOffset, digests: digests + firstDigest))
        }
    }

    func write(on pool: WorkerPool) throws(CheckpointError) {
        pool.run(self)
        if let error = failure.withLock({ $0 }) { throw error }
    }

    func run(worker: Int) {
        while failure.withLock({ $0 == nil }) {
            let index = nextRun.wrappingAdd(1, ordering: .relaxed).oldValue
            guard index < runs.count else { return }
            do {
                try write(runs[index])
            } catch {
                failure.withLock { $0 = $0 ?? error }
            }
        }
    }

    private func write(_ run: Run) throws(CheckpointError) {
        for unit in run.range {
            let bytes = run.units.bytes(of: unit..<unit + 1)
            run.digests[unit] = DigestUnits.digest(run.base + bytes.lowerBound, byteCount: bytes.count)
        }
        let bytes = run.units.bytes(of: run.range)
        try file.write(
            UnsafeRawBufferPointer(start: run.base + bytes.lowerBound, count: bytes.count),
            at: run.fileOffset + bytes.lowerBound)
    }
}
