import CUDA
import Collectives
import HostRuntime

/// How the sums of all processes' parts become the residual stream of each.
protocol GPUReducer: AnyObject, Sendable {
    /// Whether the thread that launches takes part: a step cannot be a graph then.
    var needsHost: Bool { get }

    /// residual = the sum of all processes' `sum`, of `count` fp32 values; where both are the same memory, in place.
    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, on stream: Stream) throws
}

/// By way of CPU memory: what the GPU has is copied there, the processes' communicator adds it up, and it is copied back.
/// Nothing else goes on meanwhile.
final class HostReducer: GPUReducer, @unchecked Sendable {  // the launching thread's
    private let communicator: any Communicator
    private let buffer: PinnedBuffer

    var needsHost: Bool { true }

    init(_ communicator: any Communicator, mostCount: Int, context: Context) throws {
        self.communicator = communicator
        buffer = try PinnedBuffer(try HostBuffer(byteCount: mostCount * 4), context: context)
    }

    func reduce(_ sum: UInt64, to residual: UInt64, count: Int, on stream: Stream) throws {
        try stream.download(sum, to: buffer.baseAddress, byteCount: count * 4)
        try stream.synchronize()
        try communicator.allReduce(buffer.pointer(), count: count)
        try stream.upload(buffer.baseAddress, to: residual, byteCount: count * 4)
    }
}

/// Where the processes of a group meet within a step of the GPU lane.
///
/// The residual stream is the same on all of them. Rank 0 adds its pieces to it, the others theirs to zeros, and the sum of
/// all is the residual stream behind the block.
extension GPULane {
    /// Whether a decode step goes into the stream kernel by kernel, not as a graph.
    var launchesStepwise: Bool { timeline != nil || reducer?.needsHost == true }

    /// Lets a block begin with nothing but the residual stream, which comes from rank 0.
    func clearSum(_ pass: Pass) throws(CUDAError) {
        if scratch.sum == scratch.residual { return }
        try stream.fill(scratch.sum, byteCount: pass.rowCount * configuration.hiddenSize * 4)
    }

    /// Behind a block: the residual stream becomes the sum of all processes' sums.
    func meet(_ pass: Pass) throws(CUDAError) {
        guard let reducer else { return }
        try span("meeting the other ranks") { () throws(CUDAError) in
            do {
                try reducer.reduce(
                    scratch.sum, to: scratch.residual, count: pass.rowCount * configuration.hiddenSize,
                    on: stream)
            } catch let error as CUDAError {
                throw error
            } catch {
                groupError = error as? CollectiveError
                throw CUDAError(.other, action: "meeting the other ranks", reason: "\(error)")
            }
        }
    }
}
