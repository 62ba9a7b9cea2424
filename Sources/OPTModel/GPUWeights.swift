import CPUKernels
import CUDA
import Checkpoints
import HostRuntime
import Placement
import SystemPackage

/// A model's weights where a placement puts them, for a GPU that computes everything: resident in its memory, or
/// streamed to it from CPU memory and from disk.
///
/// Every layer's heads and neurons are cut into pieces: one that is resident, then those from CPU memory, then those
/// from disk, none larger than a staging slot. Biases and norms are in GPU memory whole.
public final class GPUWeights: @unchecked Sendable {  // read-only once loaded
    public let configuration: OPTConfiguration
    public let placement: Placement
    let layers: [GPULayer]
    let logits: [LogitsPiece]
    /// Of the rows that the CPU computes in decode steps.
    let fetchedLogits: [LogitsPiece]
    let finalNorm: GPUNorm
    /// [hidden, embedding] and [embedding, hidden], or 0.
    let projectIn, projectOut: UInt64
    let tokenTable, positionTable: PlacedTable
    let streamer: WeightStreamer?
    /// Where the CPU computes a part of decode steps.
    let fetcher: WeightFetcher?
    /// Where the CPU's part of every MLP begins, if that moves.
    let boundary: MovingBoundary?
    /// Where a part of that lies on disk.
    let cpuDisk: CPUDiskWeights?
    /// The slots of the ring through which weights are streamed; 0 where none are.
    public var stagingSlotCount: Int { streamer?.ring.slotCount ?? 0 }
    let file: OffloadFile?
    /// Where what lies on disk is written, caches too.
    public let offloadFolder: FilePath
    /// What was loaded, on all tiers.
    public let byteCount: Int

    private let deviceBuffers: [DeviceMemory]
    /// Each layer's part in CPU memory, of vectors alone where the CPU computes with what lies on disk; empty where there is
    /// none.
    let hostShards: [LayerShard]
    private let hostMemory: [PinnedMemory]

    public struct Options: Sendable {
        /// Weights in CPU memory are pinned: copies of them are fast and do not hold the streaming thread up.
        public var pinsWeights: Bool
        /// Slots of the staging ring; with one, copies and computation take turns.
        public var stagingSlotCount: Int
        public var offloadFolder: FilePath
        /// What is streamed of every MLP and what the CPU computes changes with what both of them take.
        public var rebalances: Bool
        /// In steps of so many neurons.
        var rebalancingUnit = Placement.rowUnit

        public init(
            pinsWeights: Bool = true, stagingSlotCount: Int = 4, offloadFolder: FilePath,
            rebalances: Bool = false
        ) {
            self.pinsWeights = pinsWeights
            self.stagingSlotCount = stagingSlotCount
            self.rebalances = rebalances
            self.offloadFolder = offloadFolder
        }
    }

    /// The bytes of one staging slot: a whole layer's attention, and half of its MLP. A part of a model may have few heads or
    /// none; then it is what a piece of the MLP or of the token table has at least.
    static func slotByteCount(_ shape: ModelShape) -> Int {
        OffloadFile.aligned(
            max(
                shape.headCount * shape.bytesPerHead,
                min(Placement.rowUnit, shape.feedForwardSize) * shape.bytesPerNeuron,
                min(Placement.rowUnit, shape.vocabularySize) * shape.bytesPerTokenRow))
    }

    init(
        _ configuration: OPTConfiguration, placement: Placement, from source: some TensorSource,
        pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>, context: Context, options: Options,
        progress: @escaping @Sendable (Int, Int) -> Void
    ) throws {
        let builder = try GPUWeightsBuilder(
            configuration, placement: placement, source: source, pool: pool, kernels: kernels,
            context: context,
            options: options, progress: progress)
        try builder.load()
        self.configuration = configuration
        self.placement = placement
        layers = builder.layers
        logits = builder.logits
        fetchedLogits = builder.fetchedLogits
        finalNorm = builder.finalNorm
        projectIn = builder.projectIn
        projectOut = builder.projectOut
        tokenTable = builder.tokenTable!
        positionTable = builder.positionTable!
        file = builder.file
        offloadFolder = options.offloadFolder
        streamer = builder.streamer
        fetcher = builder.fetcher
        boundary = builder.boundary
        cpuDisk = builder.cpuDisk
        byteCount = builder.totalByteCount
        deviceBuffers = builder.deviceBuffers
        hostShards = builder.hostShards
        hostMemory = builder.hostMemory
        streamer?.start()
        cpuDisk?.start()
    }

    deinit {
        streamer?.stop()
        cpuDisk?.stop()
    }
}

/// GPU memory that several hold on to.
final class DeviceMemory: Sendable {
    let buffer: DeviceBuffer
    var address: UInt64 { buffer.address }

    init(byteCount: Int, context: Context) throws(CUDAError) {
        buffer = try DeviceBuffer(byteCount: byteCount, context: context)
    }
}

/// CPU memory with a registration where it is pinned, and the owner of the memory.
final class PinnedMemory: Sendable {
    private let registration: HostRegistration?
    private let owner: any Sendable
    /// 0 where the memory is not pinned.
    let deviceAddress: UInt64

    init(
        _ base: UnsafeMutableRawPointer, byteCount: Int, owner: any Sendable, isPinned: Bool, context: Context
    )
        throws(CUDAError)
    {
        self.owner = owner
        if isPinned && byteCount > 0 {
            let registration = try HostRegistration(baseAddress: base, byteCount: byteCount, context: context)
            deviceAddress = registration.deviceAddress
            self.registration = consume registration
        } else {
            deviceAddress = 0
            registration = nil
        }
    }
}
