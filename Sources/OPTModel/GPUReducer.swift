import CUDA
import CUDAKernelImage
import Collectives
import HostRuntime

/// How the sums of all processes' parts become the residual stream of each.
protocol GPUReducer: AnyObject, Sendable {
    /// Whether the thread that launches takes part: a step cannot be a graph then.
    func needsHost(count: Int) -> Bool

    /// Whether `sum` is zeros behind it, where it is not the residual stream.
    func clears(count: Int) -> Bool

    /// residual = the sum of all processes' `sum`, of `count` fp32 values; where both are the same memory, in place.
    ///
    /// - Parameter number: of this sum within the step, from 0.
    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, number: Int, on stream: Stream) throws
}

/// By way of CPU memory: what the GPU has is copied there, the processes' communicator adds it up, and it is copied back.
/// Nothing else goes on meanwhile.
final class HostReducer: GPUReducer, @unchecked Sendable {  // the launching thread's
    private let communicator: any Communicator
    private let buffer: PinnedBuffer

    init(_ communicator: any Communicator, mostCount: Int, context: Context) throws {
        self.communicator = communicator
        buffer = try PinnedBuffer(try HostBuffer(byteCount: mostCount * 4), context: context)
    }

    func needsHost(count: Int) -> Bool { true }
    func clears(count: Int) -> Bool { false }

    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, number: Int, on stream: Stream) throws {
        try stream.download(sum, to: buffer.baseAddress, byteCount: count * 4)
        try stream.synchronize()
        try communicator.allReduce(buffer.pointer(), count: count)
        try stream.upload(buffer.baseAddress, to: residual, byteCount: count * 4)
    }
}

/// By NCCL, within the stream.
final class NCCLReducer: GPUReducer, Sendable {
    private let nccl: NCCLCommunicator

    init(_ nccl: NCCLCommunicator) { self.nccl = nccl }

    func needsHost(count: Int) -> Bool { false }
    func clears(count: Int) -> Bool { false }

    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, number: Int, on stream: Stream) throws {
        try nccl.allReduce(sum, to: residual, count: count, on: stream.libraryHandle)
    }
}

/// In one shot through the memory of all GPUs (`Kernels/all_reduce.cu`), what is small; the rest in another way.
final class OneShotReducer: GPUReducer, @unchecked Sendable {  // addresses
    private let large: any GPUReducer
    private let kernels: GPUKernels
    private let memory: PeerMemory
    private var arguments = tandem_gpu_all_reduce()

    /// - Parameters:
    ///   - sumsPerStep: odd, so that consecutive sums, of steps of one sum too, are even and odd by turns.
    ///   - step: the address of the step's number.
    init(
        _ exchange: GPUExchange, _ memory: PeerMemory, large: any GPUReducer, kernels: GPUKernels,
        sumsPerStep: Int, step: UInt64, failure: UInt64, clears: Bool
    ) {
        precondition(sumsPerStep % 2 == 1, "OneShotReducer: \(sumsPerStep) sums a step")
        self.large = large
        self.kernels = kernels
        self.memory = memory
        let place = exchange.place
        arguments.step = step
        arguments.failure = failure
        withUnsafeMutableBytes(of: &arguments.memory) { bytes in
            let addresses = bytes.bindMemory(to: UInt64.self)
            for rank in 0..<place.size { addresses[rank] = memory.address(of: rank) }
        }
        arguments.capacity = UInt32(GPUExchange.mostCount)
        arguments.rank = UInt32(place.rank)
        arguments.rank_count = UInt32(place.size)
        arguments.numbers_per_step = UInt32(sumsPerStep)
        arguments.clears = clears ? 1 : 0
        arguments.timeout_nanoseconds = UInt64(GPULane.timeoutSeconds * 1e9)
    }

    private func isSmall(_ count: Int) -> Bool { count <= GPUExchange.mostCount }

    func needsHost(count: Int) -> Bool { !isSmall(count) && large.needsHost(count: count) }
    func clears(count: Int) -> Bool { isSmall(count) }

    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, number: Int, on stream: Stream) throws {
        if !isSmall(count) {
            return try large.reduce(sum, to: residual, count: count, number: number, on: stream)
        }
        var arguments = arguments
        arguments.sum = sum
        arguments.residual = residual
        arguments.count = UInt32(count)
        arguments.number = UInt32(number)
        try kernels.allReduce(arguments, on: stream)
    }
}
