import CUDA
import CUDAKernelImage
import HostRuntime
import Placement
import Synchronization

/// Keys and values of several sequences, in fp16 or in 4 bits, for the GPU lane: the first heads in GPU memory, further ones
/// in pinned CPU memory, where the GPU reads and writes them in place, the last on disk.
///
/// The parts in memory are laid out as `KVCache`: [sequence][layer][key, value][head][position][head dimension]. In 4 bits a
/// head's line has room for a few positions more, so that all lines begin at 16 bytes.
final class GPUKVCache: LaneCache {
    let capacities: [Int]
    /// The positions for which a line in memory has room.
    let lineCapacities: [Int]
    /// On all tiers.
    let byteCount: Int
    /// Different for every cache of the process, unlike its address in memory.
    let number: Int
    /// The heads, by where their keys and values lie.
    let heads: RangeSplit
    /// Those on disk; nil where there are none.
    let disk: DiskKVCache?
    /// The longest of the capacities.
    let longestCapacity: Int
    /// fp32, for attention that is cut over the positions.
    let partials: UInt64

    private static let count = Atomic<Int>(0)
    private let buffer: DeviceBuffer
    private let hostBuffer: PinnedBuffer?
    nonisolated(unsafe) private let hostBase: UnsafeMutableRawPointer?  // of `hostBuffer`
    private let addresses: [UInt64]
    private let hostAddresses: [UInt64]

    /// - Parameter pool: the threads that compute on what lies in CPU memory; nil where the GPU does.
    init(
        _ configuration: OPTConfiguration, _ heads: RangeSplit, capacities: [Int], rowCapacity: Int,
        disk options: DiskKVCache.Options, pool: WorkerPool? = nil, context: Context
    ) throws {
        self.capacities = capacities
        let lineCapacities = capacities.map { Self.lineCapacity(configuration, $0) }
        self.lineCapacities = lineCapacities
        number = Self.count.wrappingAdd(1, ordering: .relaxed).newValue
        self.heads = heads
        longestCapacity = capacities.max() ?? 0
        let bytesPerHead = configuration.shape.cacheBytesPerHead

        var layout = DeviceLayout()
        let offsets = lineCapacities.map { layout.add($0 * bytesPerHead * heads.gpu.count) }
        var hostLayout = DeviceLayout()
        let hostOffsets = lineCapacities.map { hostLayout.add($0 * bytesPerHead * heads.cpu.count) }
        disk =
            heads.disk.isEmpty
            ? nil
            : try DiskKVCache(
                configuration.shape, headCount: heads.disk.count, capacities: capacities, options: options,
                context: context)
        byteCount = layout.byteCount + hostLayout.byteCount + (disk?.byteCount ?? 0)

        let partCount = Self.partCount(positions: longestCapacity)
        let rows = min(rowCapacity, capacities.count)
        let partials = layout.add(
            rows * configuration.headCount * partCount * (configuration.headDimension + 2) * 4)
        buffer = try DeviceBuffer(byteCount: layout.byteCount, context: context)
        let base = buffer.address
        addresses = offsets.map { base + $0 }
        self.partials = base + partials
        if heads.cpu.isEmpty {
            hostBuffer = nil
            hostBase = nil
            hostAddresses = capacities.map { _ in 0 }
        } else {
            let memory = try HostBuffer(byteCount: hostLayout.byteCount)
            pool?.firstTouch(base: memory.baseAddress, byteCount: memory.byteCount)
            let pinned = try PinnedBuffer(memory, context: context)
            let hostBase = pinned.deviceAddress
            hostAddresses = hostOffsets.map { hostBase + $0 }
            self.hostBase = pinned.baseAddress
            hostBuffer = consume pinned
        }
        disk?.start()
    }

    deinit { disk?.stop() }

    /// Where a sequence's keys of its first layer and first head in GPU memory begin.
    func address(of sequence: Int) -> UInt64 { addresses[sequence] }
    /// Where those in CPU memory begin, for the GPU; 0 where there are none.
    func hostAddress(of sequence: Int) -> UInt64 { hostAddresses[sequence] }
    /// The same for the host; only where there are heads in CPU memory.
    func hostPointer(of sequence: Int) -> UnsafeMutableRawPointer {
        hostBase! + Int(hostAddresses[sequence] - hostAddresses[0])
    }

    /// The positions for which a line in memory has room that shall have it for `capacity`.
    static func lineCapacity(_ configuration: OPTConfiguration, _ capacity: Int) -> Int {
        if !configuration.hasQuantizedCache { return capacity }
        var unit = 16
        while unit % 2 == 0 && unit / 2 * configuration.cachePositionByteCount % 16 == 0 { unit /= 2 }
        return divideUp(capacity, unit) * unit
    }

    /// The parts into which decode attention cuts so many positions: an even number, so that few graphs serve all.
    static func partCount(positions: Int) -> Int {
        divideUp(divideUp(positions, Int(TANDEM_GPU_ATTENTION_PART)), 2) * 2
    }
}
