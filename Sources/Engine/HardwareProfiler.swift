import CPUKernels
import HostRuntime
import OPTModel
import Placement
import Synchronization

/// Measures what the machine sustains, with the engine's own threads, so that a result can be held against it.
public struct HardwareProfiler: Sendable {
    private let engine: Engine

    public init(_ engine: Engine) {
        self.engine = engine
    }

    /// The rate, in bytes a second, of a plain loop that reads the engine's weights in the order of memory, piece
    /// by piece.
    public func readRate() async throws -> Double {
        try await rate(engine.kernels.pointee.read_in_order)
    }

    /// The same with several streams side by side, as the decode kernels read: the most that we know to read.
    public func fastestReadRate() async throws -> Double {
        try await rate(engine.kernels.pointee.read_all)
    }

    private func rate(_ read: @escaping ReadTask.Read) async throws -> Double {
        let task = ReadTask(
            regions: engine.cpuWeights?.regions ?? [], read: read, workerCount: engine.threadCount)
        return Double(task.byteCount) / (try await seconds(task))
    }

    /// The fused multiply-adds that all threads do from registers, in fp32 operations a second.
    public func multiplyAddPeak() async throws -> Double {
        let task = MultiplyAddTask(kernels: engine.kernels.pointee, workerCount: engine.threadCount)
        let seconds = try await seconds(task)
        return task.operations.reduce(0, +) / seconds
    }

    /// The seconds of one meeting of all threads.
    public func barrierSeconds() async throws -> Double {
        let task = BarrierTask(barrier: engine.pool.barrier)
        return try await seconds(task) / Double(BarrierTask.count)
    }

    /// Bytes a second of a plain kernel that reads GPU memory; nil where the CPU computes.
    public func gpuMemoryReadRate() async throws -> Double? {
        try await engine.leader.perform { [engine] in try engine.gpuLane?.bandwidth.memoryReadRate() }
    }

    /// Bytes a second of copies from pinned CPU memory to the GPU; nil where the CPU computes.
    public func uploadRate() async throws -> Double? {
        try await engine.leader.perform { [engine] in try engine.gpuLane?.bandwidth.uploadRate() }
    }

    /// Bytes a second of direct reads of what lies on disk; nil where nothing does.
    public func diskReadRate() async throws -> Double? {
        try await engine.leader.perform { [engine] in try engine.gpuLane?.measureDiskReadRate() }
    }

    /// Bytes a second that CPU memory gives to what uses it in a decode step beside a GPU.
    public struct HostRates: Sendable {
        /// A plain loop that reads it in order.
        public var readAlone: Double
        /// The faster one of that and several streams side by side.
        public var fastestReadAlone: Double
        /// The fastest loop that we know and copies to the GPU, at the same time; nil where nothing is copied.
        public var readTogether, uploadTogether: Double?

        /// The mean of what was measured before and after a run.
        public func mean(with other: HostRates) -> HostRates {
            func mean(_ one: Double?, _ two: Double?) -> Double? {
                guard let one, let two else { return nil }
                return (one + two) / 2
            }
            return HostRates(
                readAlone: (readAlone + other.readAlone) / 2,
                fastestReadAlone: (fastestReadAlone + other.fastestReadAlone) / 2,
                readTogether: mean(readTogether, other.readTogether),
                uploadTogether: mean(uploadTogether, other.uploadTogether))
        }
    }

    /// What CPU memory gives to the CPU's part of a decode step, and to the copies beside it; nil where the CPU computes
    /// nothing beside a GPU.
    public func hostRatesBesideGPU() async throws -> HostRates? {
        guard engine.usesCPU else { return nil }
        // Many times what a processor's caches hold.
        let most = 1 << 30
        let byteCount = min(most, (HostMemory.availableByteCount ?? most) / 4)
        return try await engine.leader.perform { [engine] in
            let memory = try HostBuffer(byteCount: byteCount)
            engine.pool.firstTouch(base: memory.baseAddress, byteCount: byteCount)
            func task(_ read: @escaping ReadTask.Read) -> ReadTask {
                ReadTask(
                    regions: [UnsafeRawBufferPointer(start: memory.baseAddress, count: byteCount)],
                    read: read, workerCount: engine.threadCount)
            }
            func rate(_ read: @escaping ReadTask.Read) -> Double {
                let task = task(read)
                let start = ContinuousClock.now
                for _ in 0..<Self.hostRounds { engine.pool.run(task) }
                return Double(Self.hostRounds * byteCount) / start.duration(to: .now).seconds
            }
            let plain = rate(engine.kernels.pointee.read_in_order)
            var rates = HostRates(
                readAlone: plain, fastestReadAlone: max(plain, rate(engine.kernels.pointee.read_all)))
            guard let lane = engine.gpuLane, lane.weights.placement.streamsWeights else { return rates }
            let bandwidth = lane.bandwidth
            // As the decode kernels read, whichever loop is the faster one alone: the cost model's constants were fitted to it.
            let beside = task(engine.kernels.pointee.read_all)
            let both = try bandwidth.uploadRate(
                lasting: max(0.1, 10 * Double(byteCount) / rates.readAlone),
                at: try bandwidth.uploadRate()
            ) { engine.pool.run(beside) }
            let seconds = both.roundSeconds.reduce(0, +)
            if seconds > 0 {
                rates.readTogether = Double(byteCount * both.roundSeconds.count) / seconds
                rates.uploadTogether = both.rate
            }
            return rates
        }
    }

    /// About as long as a decode step of a model that is worth dividing.
    private static let hostRounds = 4

    private func seconds(_ task: any WorkerTask) async throws -> Double {
        try await engine.leader.perform { [engine] in
            let start = ContinuousClock.now
            engine.pool.run(task)
            return start.duration(to: .now).seconds
        }
    }
}

/// Reads regions of memory, piece by piece: each worker takes the next piece that nobody has, so that slow processors hold
/// nobody up.
final class ReadTask: WorkerTask, @unchecked Sendable {  // each worker writes its own station
    typealias Read = @convention(c) (UnsafeRawPointer?, Int) -> UInt64

    private struct Station {
        var checksum: UInt64 = 0
        var runCount = 0
        private let padding: (SIMD8<Int64>, SIMD4<Int64>) = (.zero, .zero)
    }

    private static let pieceByteCount = 4 << 20
    private let pieces: [UnsafeRawBufferPointer]
    private let read: Read
    private let stations: UnsafeMutableBufferPointer<Station>
    /// Of all runs: in each, every piece is taken once and every worker learns once that there is none left.
    private let takenCount = Atomic<Int>(0)

    init(regions: [UnsafeRawBufferPointer], read: @escaping Read, workerCount: Int) {
        pieces = regions.flatMap { region in
            stride(from: 0, to: region.count, by: Self.pieceByteCount).map {
                UnsafeRawBufferPointer(rebasing: region[$0..<min($0 + Self.pieceByteCount, region.count)])
            }
        }
        self.read = read
        stations = .allocate(capacity: workerCount)
        stations.initialize(repeating: Station())
    }

    deinit { stations.deallocate() }

    var byteCount: Int { pieces.reduce(0) { $0 + $1.count } }

    func run(worker: Int) {
        let before = stations[worker].runCount * (pieces.count + stations.count)
        stations[worker].runCount += 1
        while true {
            let index = takenCount.wrappingAdd(1, ordering: .relaxed).oldValue - before
            if index >= pieces.count { return }
            stations[worker].checksum ^= read(pieces[index].baseAddress!, pieces[index].count)
        }
    }
}

private final class MultiplyAddTask: WorkerTask, @unchecked Sendable {  // each worker writes its own entry
    private let kernels: tandem_cpu_kernels
    private let results: UnsafeMutableBufferPointer<(operations: Double, sink: Float)>

    init(kernels: tandem_cpu_kernels, workerCount: Int) {
        self.kernels = kernels
        results = .allocate(capacity: workerCount)
        results.initialize(repeating: (0, 0))
    }

    deinit { results.deallocate() }

    var operations: [Double] { results.map(\.operations) }

    func run(worker: Int) {
        results[worker].operations = kernels.multiply_add_peak(4_000_000, &results[worker].sink)
    }
}

private final class BarrierTask: WorkerTask {
    static let count = 20_000
    private let barrier: SpinBarrier

    init(barrier: SpinBarrier) { self.barrier = barrier }

    func run(worker: Int) {
        for _ in 0..<Self.count { barrier.wait() }
    }
}

extension HardwareProfile {
    /// Takes what CPU memory gave in a run for what it gives.
    public mutating func take(_ rates: HardwareProfiler.HostRates) {
        take(
            readAlone: rates.fastestReadAlone, readTogether: rates.readTogether, upload: rates.uploadTogether)
    }

    /// Bytes a second; nil for what was not measured.
    public mutating func take(readAlone: Double?, readTogether: Double?, upload: Double?) {
        if let readAlone { processor.memoryReadBytesPerSecond = readAlone }
        guard let readTogether, let upload else { return }
        together?.memoryReadBytesPerSecond = readTogether
        together?.uploadBytesPerSecond = upload
    }
}
