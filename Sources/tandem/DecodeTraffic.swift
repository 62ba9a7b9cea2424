import Placement

/// The bytes that a decode step moves through the resources of a machine with a GPU.
///
/// Weights that are not on the GPU pass through PCIe into its memory, where they are read again. The cache is read where
/// it lies or, where that is the disk, where it was read to: by the GPU, through PCIe, or what lies in CPU memory by the
/// processor. What the processor computes it reads from CPU memory, where the disk's part was read to. The rows that both exchange are left out:
/// thousandths.
struct DecodeTraffic: Equatable {
    var gpuMemory: Int
    var pcie: Int
    var cpuMemory: Int
    var disk: Int

    /// - Parameters:
    ///   - weights: the bytes of all weights that a step reads.
    ///   - cache: the bytes of keys and values that a step reads, of all heads.
    ///   - computesCacheOnCPU: the processor computes attention over the cache in CPU memory.
    ///   - movedNeurons: of every layer, that the GPU computes beyond what the placement says.
    init(
        _ placement: Placement, weights: Int, cache: Int, computesCacheOnCPU: Bool, movedNeurons: Double = 0
    ) {
        let moved = Int(
            movedNeurons * Double(placement.shape.layerCount * placement.shape.bytesPerNeuron))
        let fromDisk = placement.streamedByteCount(from: .disk)
        let streamed = placement.streamedByteCount(from: .cpu) + fromDisk + moved
        let ownCache = placement.cpuComputedCacheByteCount(of: cache)
        let hostCache = placement.gpuComputedCacheByteCount(on: .cpu, of: cache)
        let diskCache = placement.gpuComputedCacheByteCount(on: .disk, of: cache)
        let computed = placement.cpuComputedByteCount - moved
        gpuMemory = weights - computed + cache - ownCache - hostCache - diskCache
        pcie = streamed + diskCache + (computesCacheOnCPU ? 0 : hostCache)
        cpuMemory = computed + ownCache + (computesCacheOnCPU ? hostCache : 0)
        disk =
            fromDisk + placement.cpuComputedByteCount(on: .disk)
            + placement.cacheByteCount(on: .disk, of: cache)
    }
}
