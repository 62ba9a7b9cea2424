import CUDA
import CUDAKernelImage

/// The flags by which the GPU and the threads that feed it hand slots to each other.
extension GPULane {
    // MARK: Streamed pieces

    /// Lets the stream wait until a piece's weights are there.
    ///
    /// With a limit that lets nothing of the piece count there is nothing to wait for, and nothing to give back.
    func take(_ source: PieceSource, limit: tandem_gpu_limit = .init()) throws(CUDAError) {
        switch source {
        case .resident: return
        case .streamed(let index):
            try wait(
                "waiting for weights", flag: weights.streamer!.flagAddress(ofBlock: index), limit: limit)
        case .fetched(let index, let skipped):
            try weights.fetcher!.fetch(index, skipping: skipped, for: stream)
        }
    }

    /// Lets a piece go unused, where others have to wait until it has been used.
    func skip(_ source: PieceSource) throws(CUDAError) {
        if case .fetched(let index, _) = source { return weights.fetcher!.skip(index) }
        try take(source)
        try release(source)
    }

    /// Lets the stream wait until a flag is 1; a breakdown shows the time by `name`.
    private func wait(
        _ name: String, flag: UInt64, limit: tandem_gpu_limit = .init()
    ) throws(CUDAError) {
        try span(name) { () throws(CUDAError) in
            try kernels.wait(
                flag: flag, value: 1, failure: block.failureAddress, timeoutSeconds: Self.timeoutSeconds,
                limit: limit, on: stream)
        }
    }

    /// Lets a piece's slot be written again.
    func release(_ source: PieceSource, limit: tandem_gpu_limit = .init()) throws(CUDAError) {
        switch source {
        case .resident: return
        case .streamed(let index):
            let streamer = weights.streamer!
            try kernels.signal(
                flag: streamer.flagAddress(ofBlock: index), value: 0,
                notice: streamer.noticeAddress(ofBlock: index), noticeValue: 1,
                limit: limit, on: stream)
        case .fetched(let index, _): try weights.fetcher!.release(index, from: stream)
        }
    }

    // MARK: The cache on disk

    /// Lets the stream wait until a layer's keys and values are in their slot.
    ///
    /// The flag is lowered here, by a kernel that starts when the wait has ended: attention behind it reads the slot as
    /// soon as the kernel in front has started, and a wait lets its successor start at once.
    func takeCache(layer: Int, _ cache: GPUKVCache) throws(CUDAError) {
        let disk = cache.disk!
        let flag = disk.flagAddress(ofSlot: disk.layout.slot(ofLayer: layer))
        try wait("waiting for keys and values", flag: flag)
        try kernels.signal(flag: flag, value: 0, on: stream)
    }

    /// Lets the slot be written back.
    func releaseCache(layer: Int, _ cache: GPUKVCache) throws(CUDAError) {
        let disk = cache.disk!
        let slot = disk.layout.slot(ofLayer: layer)
        try kernels.signal(
            flag: disk.flagAddress(ofSlot: slot), value: 0, notice: disk.noticeAddress(ofSlot: slot),
            noticeValue: 1, on: stream)
    }
}
