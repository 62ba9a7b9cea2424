import CUDA
import CUDAKernelImage
import HostRuntime
import Testing

extension GPUTests {
    @Suite(.enabled(if: GPU.isPresent, "no GPU"), .timeLimit(.minutes(2)))
    struct MemoryTests {
        @Test(arguments: [1, 4096, 10_000_019])
        func `bytes come back from the GPU as they went`(byteCount: Int) throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let buffer = try DeviceBuffer(byteCount: byteCount, context: context)
            let second = try DeviceBuffer(byteCount: byteCount, context: context)
            let sent = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
            var received = [UInt8](repeating: 0, count: byteCount)
            try sent.withUnsafeBytes { sent in
                try received.withUnsafeMutableBytes { received in
                    try stream.upload(sent.baseAddress!, to: buffer.address, byteCount: byteCount)
                    try stream.copy(buffer.address, to: second.address, byteCount: byteCount)
                    try stream.download(second.address, to: received.baseAddress!, byteCount: byteCount)
                    try waitUntil("copies") { try stream.isIdle }
                }
            }
            #expect(received == sent)
        }

        @Test func `a range is filled and what lies around it is left`() throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let buffer = try DeviceBuffer(byteCount: 64, context: context)
            var received = [UInt8](repeating: 1, count: 64)
            try stream.fill(buffer.address, byteCount: 64)
            try stream.fill(buffer.address + 7, with: 0xab, byteCount: 9)
            try received.withUnsafeMutableBytes {
                try stream.download(buffer.address, to: $0.baseAddress!, byteCount: 64)
                try waitUntil("fills") { try stream.isIdle }
            }
            #expect(received == (0..<64).map { (7..<16).contains($0) ? 0xab : 0 })
        }

        @Test func `a pinned buffer is read by a copy and in place, and written in place`() throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let byteCount = 4 << 20
            let pinned = try PinnedBuffer(HostBuffer(byteCount: byteCount), context: context)
            let words = pinned.pointer(as: UInt32.self)
            for index in 0..<byteCount / 4 {
                words[index] = UInt32(truncatingIfNeeded: index &* 2_654_435_761)
            }
            let sum = (0..<byteCount / 4).reduce(UInt32(0)) { $0 &+ words[$1] }

            let copied = try DeviceBuffer(byteCount: byteCount, context: context)
            let digests = try DeviceBuffer(byteCount: 8, context: context)
            let read = try GPU.kernels(context).function(named: "tandem_kernel_read")
            try stream.upload(pinned.baseAddress, to: copied.address, byteCount: byteCount)
            try stream.fill(digests.address, byteCount: 8)
            for (index, address) in [copied.address, pinned.deviceAddress].enumerated() {
                try stream.launch(
                    read, grid: (16, 1, 1), block: 512,
                    arguments: tandem_gpu_read(
                        bytes: address, digest: digests.address + UInt64(4 * index),
                        byte_count: UInt64(byteCount)
                    ))
            }
            try stream.copy(digests.address, to: pinned.deviceAddress, byteCount: 8)
            try waitUntil("kernels") { try stream.isIdle }
            #expect(words[0] == sum, "through a copy")
            #expect(words[1] == sum, "through the mapped address")
        }

        @Test func `memory of someone else is pinned only as long as its registration lives`() throws {
            let context = try GPU.context()
            let buffer = try HostBuffer(byteCount: 1 << 20)
            for _ in 0..<3 {
                // Memory that is still registered would be refused.
                let registration = try HostRegistration(
                    baseAddress: buffer.baseAddress, byteCount: buffer.byteCount, context: context)
                #expect(registration.deviceAddress != 0)
            }
        }

        @Test func `more memory than the GPU has is refused by name, and the context goes on`() throws {
            let context = try GPU.context()
            let byteCount = try context.totalByteCount + 1 << 30
            do {
                _ = try DeviceBuffer(byteCount: byteCount, context: context)
                Issue.record("\(byteCount) bytes were allocated")
            } catch {
                #expect(error.code == .outOfMemory)
                #expect(error.statusName == "CUDA_ERROR_OUT_OF_MEMORY")
                #expect(error.description.contains("\(byteCount) bytes"))
            }
            let small = try DeviceBuffer(byteCount: 16, context: context)
            #expect(small.address != 0)
        }

        @Test func `a buffer gives its memory back`() throws {
            let context = try GPU.context()
            let byteCount = 1 << 30
            let before = try context.freeByteCount
            do {
                let buffer = try DeviceBuffer(byteCount: byteCount, context: context)
                #expect(buffer.byteCount == byteCount)
                #expect(try context.freeByteCount <= before - byteCount / 2)
            }
            #expect(try context.freeByteCount > before - byteCount / 2)
        }
    }
}
