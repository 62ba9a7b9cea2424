import CPUKernels
import CUDA
import Checkpoints
import HostRuntime

/// Loads tensors to where a placement wants them: CPU memory at once, GPU memory and the offload file through two
/// pinned staging buffers, of which one is filled while the other is copied.
final class StagedLoader<Source: TensorSource> {
    /// Tensors that go to one place together.
    struct Part {
        enum Destination {
            case memory(UnsafeMutableRawPointer)
            case gpu(UInt64)
            case file(offset: Int)
        }

        var slots: [TensorSlot]
        var byteCount: Int
        var destination: Destination
    }

    private let source: Source
    private let pool: WorkerPool
    private let kernels: UnsafePointer<tandem_cpu_kernels>
    private let context: Context
    private let stream: Stream
    private let file: OffloadFile?
    private let progress: @Sendable (Int, Int) -> Void
    private let totalByteCount: Int
    private var doneByteCount = 0
    private var stages: [Stage] = []
    private var nextStage = 0

    private final class Stage {
        let buffer: PinnedBuffer
        let isCopied: Event

        init(byteCount: Int, pool: WorkerPool, context: Context) throws {
            let memory = try HostBuffer(byteCount: byteCount)
            pool.firstTouch(base: memory.baseAddress, byteCount: byteCount)
            buffer = try PinnedBuffer(memory, context: context)
            isCopied = try Event(context: context)
        }
    }

    /// - Parameter totalByteCount: all that will be loaded, for the progress.
    init(
        _ source: Source, pool: WorkerPool, kernels: UnsafePointer<tandem_cpu_kernels>, context: Context,
        file: OffloadFile?, totalByteCount: Int, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws(CUDAError) {
        self.source = source
        self.pool = pool
        self.kernels = kernels
        self.context = context
        self.file = file
        self.totalByteCount = totalByteCount
        self.progress = progress
        stream = try Stream(context: context)
    }

    /// Loads all parts; those for the GPU arrive there before `finish` returns.
    func load(_ parts: [Part]) throws(ModelError) {
        let total = totalByteCount
        let done = doneByteCount
        let loader = WeightLoader(source: source, kernels: kernels) { [progress] count, _ in
            progress(done + count, total)
        }
        var stagedByteCount = 0
        for part in parts {
            if case .memory = part.destination { continue }
            stagedByteCount += OffloadFile.aligned(part.byteCount)
        }
        let stage = try stage(byteCount: stagedByteCount)
        var offset = 0
        var copies: [(bytes: UnsafeRawBufferPointer, destination: Part.Destination)] = []
        for part in parts where part.byteCount > 0 {
            switch part.destination {
            case .memory(let base):
                loader.add(part.slots, to: base, byteCount: part.byteCount)
            case .gpu, .file:
                let base = stage!.buffer.baseAddress + offset
                loader.add(part.slots, to: base, byteCount: part.byteCount)
                copies.append(
                    (UnsafeRawBufferPointer(start: base, count: part.byteCount), part.destination))
                offset += OffloadFile.aligned(part.byteCount)
            }
            doneByteCount += part.slots.reduce(0) { $0 + $1.byteCount }
        }
        do {
            try loader.load(on: pool)
        } catch {
            throw ModelError(.checkpoint, file: error.file, error.description)
        }
        do {
            for copy in copies {
                if case .gpu(let address) = copy.destination {
                    try stream.upload(copy.bytes.baseAddress!, to: address, byteCount: copy.bytes.count)
                }
            }
            try stage?.isCopied.record(on: stream)
        } catch {
            throw ModelError(error)
        }
        for copy in copies {
            if case .file(let fileOffset) = copy.destination {
                let whole = UnsafeRawBufferPointer(
                    start: copy.bytes.baseAddress, count: OffloadFile.aligned(copy.bytes.count))
                try file!.write(whole, at: fileOffset)
            }
        }
    }

    /// Waits until everything has arrived.
    func finish() throws(CUDAError) {
        try stream.synchronize()
    }

    /// The staging buffer that is not being copied, with room for `byteCount`; nil for none.
    private func stage(byteCount: Int) throws(ModelError) -> Stage? {
        if byteCount == 0 { return nil }
        do {
            let index = nextStage % 2
            nextStage += 1
            if index < stages.count && stages[index].buffer.byteCount >= byteCount {
                try stages[index].isCopied.synchronize()
                return stages[index]
            }
            if index < stages.count { try stages[index].isCopied.synchronize() }
            let stage = try Stage(byteCount: byteCount, pool: pool, context: context)
            if index < stages.count { stages[index] = stage } else { stages.append(stage) }
            return stage
        } catch {
            throw ModelError(loading: error)
        }
    }
}
