/// What the machine sustains, measured with the lane's own means, so that a result can be held against it.
extension GPULane {
    /// Bytes a second that a plain kernel reads from GPU memory.
    public func measureMemoryReadRate() throws(ModelError) -> Double {
        try bandwidth.memoryReadRate()
    }

    /// Bytes a second that copies from pinned CPU memory to the GPU reach.
    public func measureUploadRate() throws(ModelError) -> Double {
        try bandwidth.uploadRate()
    }

    /// Bytes a second that direct reads of the offload file reach; nil where nothing lies on disk.
    public func measureDiskReadRate() throws(ModelError) -> Double? {
        try weights.file?.measureReadRate()
    }

    private var bandwidth: GPUBandwidth {
        GPUBandwidth(context: context, kernels: kernels, stream: stream)
    }
}
