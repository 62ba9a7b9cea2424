import CUDA
import CUDAKernelImage
import Glibc
import HostRuntime
import Synchronization

/// What the machine sustains, measured with the lane's own means, so that a result can be held against it.
extension GPULane {
    /// Bytes a second that a plain kernel reads from GPU memory.
    public func measureMemoryReadRate() throws(ModelError) -> Double {
        do {
            let byteCount = max(64 << 20, min(4 << 30, try context.freeByteCount / 2)) / 65536 * 65536
            let memory = try DeviceBuffer(byteCount: byteCount + 256, context: context)
            // Random bits would do as well as ones; zeros might not.
            try stream.fill(memory.address, with: 0x3c, byteCount: byteCount + 256)
            return try rate(byteCount: byteCount) { () throws(CUDAError) in
                try kernels.read(
                    memory.address, byteCount: byteCount, digest: memory.address + UInt64(byteCount),
                    on: stream)
            }
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Bytes a second that copies from pinned CPU memory to the GPU reach.
    public func measureUploadRate() throws(ModelError) -> Double {
        do {
            let byteCount = 256 << 20
            let host = try HostBuffer(byteCount: byteCount)
            memset(host.baseAddress, 0x3c, byteCount)
            let pinned = try PinnedBuffer(host, context: context)
            let memory = try DeviceBuffer(byteCount: byteCount, context: context)
            return try rate(byteCount: byteCount * 4) { () throws(CUDAError) in
                for _ in 0..<4 {
                    try stream.upload(pinned.baseAddress, to: memory.address, byteCount: byteCount)
                }
            }
        } catch {
            throw ModelError(loading: error)
        }
    }

    /// Bytes a second that direct reads of the offload file reach; nil where nothing lies on disk.
    public func measureDiskReadRate() throws(ModelError) -> Double? {
        try weights.file?.measureReadRate()
    }

    /// The best of five runs, the first of which is left out.
    private func rate(byteCount: Int, _ run: () throws(CUDAError) -> Void) throws(CUDAError) -> Double {
        let start = try Event(context: context, isTimed: true)
        let end = try Event(context: context, isTimed: true)
        var best = 0.0
        for round in 0..<6 {
            try start.record(on: stream)
            try run()
            try end.record(on: stream)
            try end.synchronize()
            if round > 0 {
                best = max(best, Double(byteCount) / (try end.elapsedMilliseconds(since: start) / 1e3))
            }
        }
        return best
    }
}

extension OffloadFile {
    /// Bytes a second of direct reads by as many threads as stream, of at most 8 GiB spread over the whole file: what
    /// lies below the disk may keep a part of it that is read again and again.
    func measureReadRate() throws(ModelError) -> Double? {
        let pieceByteCount = 16 << 20
        let pieceCount = min(512, byteCount.load(ordering: .relaxed) / pieceByteCount)
        if pieceCount == 0 { return nil }
        let start = ContinuousClock.now
        let reading = Reading(file: self, pieceByteCount: pieceByteCount, pieceCount: pieceCount)
        let threads = (0..<DiskReader.threadCount).map { _ in startThread { reading.run() } }
        for thread in threads { pthread_join(thread, nil) }
        if let error = reading.failure.withLock({ $0 }) { throw error }
        return Double(pieceCount * pieceByteCount) / (start.duration(to: .now) / .seconds(1))
    }

    private final class Reading: Sendable {
        let file: OffloadFile
        let pieceByteCount: Int
        let pieceCount: Int
        let stride: Int
        let next = Atomic<Int>(0)
        let failure = Mutex<ModelError?>(nil)

        init(file: OffloadFile, pieceByteCount: Int, pieceCount: Int) {
            let byteCount = file.byteCount.load(ordering: .relaxed)
            stride = byteCount / pieceCount / OffloadFile.alignment * OffloadFile.alignment
            self.file = file
            self.pieceByteCount = pieceByteCount
            self.pieceCount = pieceCount
        }

        func run() {
            guard let buffer = try? HostBuffer(byteCount: pieceByteCount) else { return }
            while true {
                let piece = next.wrappingAdd(1, ordering: .relaxed).oldValue
                if piece >= pieceCount { return }
                let bytes = UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: pieceByteCount)
                if let error = file.read(into: bytes, at: piece * stride) {
                    failure.withLock { $0 = error }
                    return
                }
            }
        }
    }
}
