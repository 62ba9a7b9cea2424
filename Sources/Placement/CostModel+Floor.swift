/// What no schedule can be faster than.
extension CostModel {
    /// The least seconds of an average decode step, at the machine's measured rates and without any overhead.
    public struct Floor: Sendable, Hashable {
        /// All weights and cache that do not lie on the GPU, at what CPU and PCIe read of CPU memory together; without a
        /// GPU at the CPU's rate alone.
        public let hostMemorySeconds: Double
        /// What lies on the GPU, at its memory's rate.
        public let gpuMemorySeconds: Double

        /// Both at the same time.
        public var seconds: Double { max(hostMemorySeconds, gpuMemorySeconds) }
    }

    public func floor(of placement: Placement) -> Floor {
        let positionCount = workload.meanPositionCount
        func byteCount(on tier: Tier) -> Double {
            let weights = [LayerKind.outputEmbedding, .attention, .mlp].reduce(0) {
                $0 + placement.weightByteCount($1, on: tier)
            }
            return Double(weights + placement.cacheByteCount(on: tier, positionCount: positionCount))
        }
        let host = byteCount(on: .cpu) + byteCount(on: .disk)
        let alone = hardware.processor.memoryReadBytesPerSecond
        let together = hardware.together.map { $0.memoryReadBytesPerSecond + $0.uploadBytesPerSecond }
        let gpu = hardware.gpu.map { byteCount(on: .gpu) / $0.memoryReadBytesPerSecond }
        return Floor(hostMemorySeconds: host / (together ?? alone), gpuMemorySeconds: gpu ?? 0)
    }
}
