/// The split of every MLP between streaming and the CPU, which follows what both of them take.
extension GPULane {
    /// How the split has moved; nil where it stays.
    public var rebalancing: Rebalancing? { weights.boundary?.record }

    /// Moves the boundary of later passes by what the last decode step showed.
    func rebalance() {
        guard let moving = weights.boundary, let share = cpuShare, let streamer = weights.streamer else {
            return
        }
        moving.note(boundary)
        timeline?.count("neurons of each MLP on the GPU", boundary)
        guard let rate = streamer.takeUploadRate() else { return }
        let shape = weights.placement.shape
        let rebalancer = Rebalancer(
            bytesPerNeuron: shape.layerCount * shape.bytesPerNeuron, blockCount: share.blockCount)
        let step = Rebalancer.Step(
            cpuSeconds: share.busySeconds, cpuByteCount: share.weightByteCount,
            streamedByteCount: streamer.byteCount(upTo: boundary), uploadBytesPerSecond: rate)
        moving.move(to: rebalancer.boundary(after: step, at: boundary))
    }
}
