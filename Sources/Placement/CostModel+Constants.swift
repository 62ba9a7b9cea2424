/// What the measured rates of a machine do not say, as seen in runs of the engine (docs/performance.md; H200, 16 cores).
extension CostModel {
    /// Of what a plain kernel reads, and `gpuBlockSeconds` for each block: fitted to all-on-GPU steps of 1.3b, 6.7b, 13b
    /// and 30b (0.854, 3.43, 6.81 and 15.0 ms), which it meets within 6 %. Together they are 0.85 for 6.7b.
    static let gpuReadEfficiency = 0.90
    static let gpuBlockSeconds = 3e-6
    /// The same of quantized layers: all-on-GPU steps of 1.3b, 6.7b, 30b and 66b with 4 bits (0.631, 1.74, 7.19 and 14.1 ms on
    /// an H100; 0.591, 1.52, 5.64, 10.9 and with 175b 27.4 on an H200) and of 6.7b with 8 (2.75 and 2.19) are met within 12 %.
    static let quantizedGPUReadEfficiency = 0.87
    static let quantizedGPUBlockSeconds = 6.2e-6
    /// Tensor-core products of 512 rows of 6.7b: 360 to 390 TFLOP/s.
    static let gpuOperationsPerSecond = 3.6e14
    /// Rows that prefill takes through the layers at a time.
    static let prefillRowCount = 2048
    /// Of PCIe's rate, where prefill gets what the CPU computes in decode steps: 0.286 s for 13.3 GB, two slots.
    static let fetchEfficiency = 0.84

    /// Of what a plain loop reads: 0.81 (1.3b) to 1.06 (6.7b) with 16 threads.
    static let cpuReadEfficiency = 0.95
    /// The share of the cores that reads all that memory gives: 14 to 16 threads of 16 were alike.
    static let saturatingCoreShare = 0.875
    /// Rows that read weights once; more take several turns.
    static let cpuRowCount = 32
    /// The meetings of all threads in a block: four at most, of 1.2 to 1.6 µs.
    static let cpuBlockSeconds = 5e-6
    /// What a block beside a GPU takes on top of that: norm and hand-over on the GPU, each phase's first reads and last
    /// stragglers. 40 to 65 µs were left of measured steps (6.7b, 1.3b; batch 1 and 8), medians of a sweep.
    static let cpuBlockSecondsBesideGPU = 50e-6
    /// Products of many rows, a thread: 92 GFLOP/s in prefill of 6.7b (AVX-512, 16 threads); 70 in prefill of 1.3b with AVX2.
    static func cpuOperationsPerSecond(_ instructionSet: String) -> Double {
        instructionSet.hasPrefix("avx512") ? 9e10 : 7e10
    }

    /// Of what a block takes beside a GPU, each row beyond the first: its way there and back, and its part of the sum.
    static let cpuRowSecondsBesideGPU = 10e-6
    /// Products of the rows beyond the first, a thread, as far as reading does not hide them: steps of 6.7b with batch 8
    /// (AVX-512, 14 threads beside a GPU) are met within 10 % with it.
    static func cpuFewRowsOperationsPerSecond(_ instructionSet: String) -> Double {
        instructionSet.hasPrefix("avx512") ? 1.1e11 : 7e10
    }

    /// Elements of a cache in 4 bits, a thread, where memory does not hold it up: 1500 positions of 144 heads of 64, which
    /// the caches of a core hold.
    static func cpuCachedElementsPerSecond(_ instructionSet: String) -> Double {
        switch instructionSet {
        case "avx512-vnni": 5.5e10
        case "avx512": 3.8e10
        case "avx2": 3.7e10
        default: 7.5e9
        }
    }

    /// One row through mapped memory and back, both sides polling; 1.9 µs for the way alone.
    static let joinSeconds = 6e-6
    /// Of PCIe's rate, where decode attention reads a cache in CPU memory in place: 5.6 ms for 0.27 GB.
    static let inPlaceCacheEfficiency = 0.9
    /// The same in prefill, which reads a position many times: 0.045 s for 0.27 GB of 55 GB/s.
    static let prefillInPlaceCacheEfficiency = 0.11

    /// Weights from the disk: 0.92 of direct reads.
    static let diskReadEfficiency = 0.92
    /// A cache on disk, whose new positions are written in every step: 143 to 170 ms for 0.27 GB at 2.5 GB/s.
    static let diskCacheEfficiency = 0.7
    /// Where the disk could not be measured: half of what one gave that could.
    static let assumedDiskBytesPerSecond = 1e9
}
