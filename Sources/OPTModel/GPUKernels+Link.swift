import CUDA
import CUDAKernelImage

/// The kernels of an exchange with another lane.
struct LinkKernels: Sendable {
    private let publishKernel, awaitKernel, joinKernel: KernelFunction

    init(_ module: Module) throws(CUDAError) {
        publishKernel = try module.function(named: "tandem_kernel_publish")
        awaitKernel = try module.function(named: "tandem_kernel_await")
        joinKernel = try module.function(named: "tandem_kernel_join")
    }

    /// One block is enough for one row of most models, and needs no meeting with others. Writes do not wait for each
    /// other.
    func publish(_ a: tandem_gpu_publish, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            publishKernel, grid: (Self.blockCount(a.rows, a.columns, byteCount: 32768), 1, 1), block: 512,
            isProgrammatic: true, arguments: a)
    }

    /// As many blocks as have all of their reads on their way at once, within limits.
    func await(_ a: tandem_gpu_await, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            awaitKernel, grid: (Self.blockCount(a.rows, a.columns, byteCount: 16384), 1, 1), block: 512,
            isProgrammatic: true, arguments: a)
    }

    func join(_ a: tandem_gpu_join, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            joinKernel, grid: (Self.blockCount(a.rows, 2 * a.columns, byteCount: 32768), 1, 1), block: 512,
            isProgrammatic: true, arguments: a)
    }

    /// Blocks for so many bytes each. Every one of them polls, so they are few.
    private static func blockCount(_ rows: UInt32, _ columns: UInt32, byteCount: Int) -> Int {
        max(1, min(16, divideUp(Int(rows) * Int(columns) * 2, byteCount)))
    }
}
