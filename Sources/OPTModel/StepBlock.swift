import CUDA
import CUDAKernelImage
import Glibc
import HostRuntime
import Synchronization

/// What host and GPU tell each other about a step, in mapped host memory.
///
/// The input is copied to GPU memory when the step starts. Chosen tokens and the number of the finished step come back
/// straight into this memory, where the host polls.
final class StepBlock: @unchecked Sendable {  // written by the lane's thread alone, between steps
    /// Where the parts of the input lie, in bytes from its start, for steps of up to `rowCapacity` rows.
    struct Layout {
        let rows, choices, segments, logitsRows: Int
        /// The rows again, whose cache in CPU memory is the ring of what lies on disk.
        let diskRows: Int
        let byteCount: Int
        static let stepNumber = 0
        /// The neuron where the CPU's part of every MLP begins.
        static let boundary = 4

        init(rowCapacity: Int, hasDiskCache: Bool) {
            rows = 64
            choices = rows + rowCapacity * MemoryLayout<tandem_gpu_row>.stride
            segments = choices + rowCapacity * MemoryLayout<tandem_gpu_choice>.stride
            logitsRows = segments + rowCapacity * MemoryLayout<tandem_gpu_segment>.stride
            diskRows = divideUp(logitsRows + rowCapacity * MemoryLayout<UInt32>.stride, 64) * 64
            let diskRowCount = hasDiskCache ? rowCapacity : 0
            byteCount = divideUp(diskRows + diskRowCount * MemoryLayout<tandem_gpu_row>.stride, 64) * 64
        }
    }

    private let buffer: PinnedBuffer
    private let outputOffset: Int

    init(rowCapacity: Int, hasDiskCache: Bool, context: Context) throws(CUDAError) {
        let input = Layout(rowCapacity: rowCapacity, hasDiskCache: hasDiskCache).byteCount
        outputOffset = divideUp(input, 128) * 128
        let memory: HostBuffer
        do {
            memory = try HostBuffer(byteCount: outputOffset + 128 + rowCapacity * 4)
        } catch {
            throw CUDAError(.outOfMemory, action: "making a step's memory", reason: error.description)
        }
        memset(memory.baseAddress, 0, memory.byteCount)
        buffer = try PinnedBuffer(memory, context: context)
        failure.pointee.store(0, ordering: .relaxed)
        finishedStep.pointee.store(0, ordering: .relaxed)
    }

    var input: UnsafeMutableRawPointer { buffer.baseAddress }

    func pointer<T>(_ offset: Int, as type: T.Type = T.self) -> UnsafeMutablePointer<T> {
        (buffer.baseAddress + offset).assumingMemoryBound(to: type)
    }

    private func flag(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        (buffer.baseAddress + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// The number of the last finished step.
    var finishedStep: UnsafeMutablePointer<Atomic<UInt32>> { flag(outputOffset) }
    var finishedStepAddress: UInt64 { buffer.deviceAddress + UInt64(outputOffset) }
    /// Set by a kernel that waited too long.
    var failure: UnsafeMutablePointer<Atomic<UInt32>> { flag(outputOffset + 64) }
    var failureAddress: UInt64 { buffer.deviceAddress + UInt64(outputOffset) + 64 }
    /// The token chosen for each row of logits.
    var tokens: UnsafeMutablePointer<Int32> { pointer(outputOffset + 128) }
    var tokensAddress: UInt64 { buffer.deviceAddress + UInt64(outputOffset) + 128 }
}
