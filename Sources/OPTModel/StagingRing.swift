import CUDA
import Glibc
import HostRuntime
import Synchronization

/// The slots in GPU memory through which weights are streamed.
///
/// Each slot has a flag in GPU memory, 1 while it holds a block that nobody has used, and a notice in mapped host
/// memory, 1 while it may be written.
final class StagingRing: @unchecked Sendable {  // the notices are atomic, everything else is constant
    let slotByteCount: Int
    let slotCount: Int
    private let memory: DeviceBuffer
    private let flags: DeviceBuffer
    private let notices: PinnedBuffer

    init(slotByteCount: Int, slotCount: Int, context: Context) throws {
        self.slotByteCount = slotByteCount
        self.slotCount = slotCount
        memory = try DeviceBuffer(byteCount: slotByteCount * slotCount, context: context)
        flags = try DeviceBuffer(byteCount: slotCount * 4, context: context)
        let words = try HostBuffer(byteCount: slotCount * Self.noticeStride)
        memset(words.baseAddress, 0, words.byteCount)
        notices = try PinnedBuffer(words, context: context)
        for slot in 0..<slotCount { notice(ofSlot: slot).word.pointee.store(1, ordering: .relaxed) }
    }

    func address(ofSlot slot: Int) -> UInt64 { memory.address + UInt64(slot * slotByteCount) }
    func flagAddress(ofSlot slot: Int) -> UInt64 { flags.address + UInt64(slot * 4) }

    /// 1 while the slot may be written; whoever writes it sets it to 0.
    func notice(ofSlot slot: Int) -> Notice { Notice(notices.baseAddress + slot * Self.noticeStride) }
    func noticeAddress(ofSlot slot: Int) -> UInt64 {
        notices.deviceAddress + UInt64(slot * Self.noticeStride)
    }

    func clearFlags(on stream: Stream) throws(CUDAError) {
        try stream.fill(flags.address, byteCount: slotCount * 4)
    }

    /// A notice on a cache line of its own.
    private static let noticeStride = 128
}
