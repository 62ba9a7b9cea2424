/// What the machine sustains, measured with the lane's own means, so that a result can be held against it.
extension GPULane {
    /// Of GPU memory and PCIe.
    public var bandwidth: GPUBandwidth {
        GPUBandwidth(context: context, kernels: kernels, stream: stream)
    }

    /// Bytes a second that direct reads of the offload file reach; nil where nothing lies on disk.
    public func measureDiskReadRate() throws(ModelError) -> Double? {
        if let file = weights.file { return try file.measureReadRate() }
        if weights.placement.cacheHeads.disk.isEmpty { return nil }
        return try OffloadFile.measureReadRate(in: weights.offloadFolder, byteCount: 1 << 30)
    }
}
