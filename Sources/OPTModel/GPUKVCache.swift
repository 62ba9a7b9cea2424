import CUDA
import CUDAKernelImage
import Synchronization

/// Keys and values of several sequences in GPU memory, fp16, laid out as `KVCache`:
/// [sequence][layer][key, value][head][position][head dimension].
final class GPUKVCache: LaneCache {
    let capacities: [Int]
    let byteCount: Int
    /// Different for every cache of the process, unlike its address in memory.
    let number: Int

    private static let count = Atomic<Int>(0)
    private let buffer: DeviceBuffer
    private let addresses: [UInt64]
    /// fp32, for attention that is cut over the positions.
    let partials: UInt64
    /// The longest of the capacities.
    let longestCapacity: Int

    init(_ configuration: OPTConfiguration, capacities: [Int], rowCapacity: Int, context: Context)
        throws(CUDAError)
    {
        self.capacities = capacities
        number = Self.count.wrappingAdd(1, ordering: .relaxed).newValue
        let bytesPerPosition = KVCache.byteCountPerPosition(configuration)
        var layout = DeviceLayout()
        let offsets = capacities.map { layout.add($0 * bytesPerPosition) }
        byteCount = layout.byteCount
        longestCapacity = capacities.max() ?? 0
        let partCount = Self.partCount(positions: longestCapacity)
        let rows = min(rowCapacity, capacities.count)
        let partials = layout.add(
            rows * configuration.headCount * partCount * (configuration.headDimension + 2) * 4)
        buffer = try DeviceBuffer(byteCount: layout.byteCount, context: context)
        let base = buffer.address
        addresses = offsets.map { base + $0 }
        self.partials = base + partials
    }

    /// Where a sequence's keys of its first layer and head begin.
    func address(of sequence: Int) -> UInt64 { addresses[sequence] }

    /// The parts into which decode attention cuts so many positions: an even number, so that few graphs serve all.
    static func partCount(positions: Int) -> Int {
        divideUp(divideUp(positions, Int(TANDEM_GPU_ATTENTION_PART)), 2) * 2
    }
}
