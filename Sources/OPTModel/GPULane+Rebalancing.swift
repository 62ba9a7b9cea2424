/// The split of every MLP between streaming and the CPU, which follows what both of them take.
extension GPULane {
    /// How the split has moved; nil where it stays.
    public var rebalancing: Rebalancing? { weights.boundary?.record }

    /// Moves the boundary of later passes by what the last decode step showed.
    func rebalance() {
        guard let moving = weights.boundary, let share = cpuShare, let streamer = weights.streamer else {
            return
        }
        let pool = share.workers.pool
        moving.note(boundary, cpuSeconds: share.busySeconds, threadCount: pool.activeCount)
        timeline?.count("neurons of each MLP on the GPU", boundary)
        let rate = streamer.takeUploadRate()
        // Workers that were driven from their processors say nothing of the next step, which goes on without them.
        defer { poolMoveCount = pool.moveCount }
        guard let rate, poolMoveCount == pool.moveCount else { return }
        let shape = weights.placement.shape
        let rebalancer = Rebalancer(
            bytesPerNeuron: shape.layerCount * shape.bytesPerNeuron, blockCount: share.blockCount)
        let step = Rebalancer.Step(
            cpuSeconds: share.busySeconds, cpuByteCount: share.weightByteCount,
            streamedByteCount: streamer.byteCount(upTo: boundary), uploadBytesPerSecond: rate)
        let target = rebalancer.boundary(after: step, at: boundary)
        moving.move(to: target)
    }
}
