import CUDA
import CUDAKernelImage
import Testing

@testable import OPTModel

/// The sum through each other's memory, with ranks that are streams of one GPU.
extension RanksOnOneGPU {
    @Suite struct AllReduceTests {
        @Test(arguments: [2, 3, 8])
        func `all ranks get the same sum, again and again, and what they gave is cleared`(
            rankCount: Int
        ) throws {
            let context = try Context(device: CUDADriver.load().device())
            try context.makeCurrent()
            let kernels = try GPUKernels(context)
            let counts = [1, 2, 7, 33, 511, 513, 4096, 12288, GPUExchange.mostCount / rankCount]
            let memories = try (0..<rankCount).map { _ in
                try PeerMemory(byteCount: GPUExchange.memoryByteCount(rankCount), context: context)
            }
            for memory in memories { try memory.open(memories) }
            let streams = try (0..<rankCount).map { _ in try Stream(context: context) }
            let most = counts.max()!
            // Of each rank: what it gives, the sum, the step's number, whether a wait failed.
            let place = 4 * most
            let buffer = try DeviceBuffer(byteCount: rankCount * (2 * place + 256), context: context)
            func base(_ rank: Int) -> UInt64 { buffer.address + UInt64(rank * (2 * place + 256)) }
            for (step, count) in (counts + counts.reversed()).enumerated() {
                // Sums of step 1, 2, ... with three sums each.
                let parts = (0..<rankCount).map { rank in
                    (0..<count).map { Float(($0 * 31 + rank * 17 + step * 7) % 1013) / 8 - 60 }
                }
                var expected = [Float](repeating: 0, count: count)
                for part in parts { for index in 0..<count { expected[index] += part[index] } }
                for number in 0..<3 {
                    for rank in 0..<rankCount {
                        try streams[rank].uploadAndWait(parts[rank], to: base(rank))
                        try streams[rank].uploadAndWait(
                            [UInt32(step + 1), 0], to: base(rank) + UInt64(2 * place))
                    }
                    for rank in 0..<rankCount {
                        var arguments = tandem_gpu_all_reduce()
                        arguments.sum = base(rank)
                        arguments.residual = base(rank) + UInt64(rank == 0 ? 0 : place)
                        arguments.step = base(rank) + UInt64(2 * place)
                        arguments.failure = arguments.step + 4
                        withUnsafeMutableBytes(of: &arguments.memory) {
                            let addresses = $0.bindMemory(to: UInt64.self)
                            for peer in 0..<rankCount { addresses[peer] = memories[rank].address(of: peer) }
                        }
                        arguments.count = UInt32(count)
                        arguments.capacity = UInt32(GPUExchange.mostCount)
                        arguments.rank = UInt32(rank)
                        arguments.rank_count = UInt32(rankCount)
                        arguments.number = UInt32(number)
                        arguments.numbers_per_step = 3
                        arguments.clears = rank == 0 ? 0 : 1
                        arguments.timeout_nanoseconds = 20_000_000_000
                        try kernels.allReduce(arguments, on: streams[rank])
                    }
                    for rank in 0..<rankCount {
                        try streams[rank].synchronize()
                        let failure: [UInt32] = try streams[rank].read(
                            1, at: base(rank) + UInt64(2 * place + 4))
                        #expect(failure == [0], "rank \(rank) waited in vain")
                        let sum: [Float] = try streams[rank].read(
                            count, at: base(rank) + UInt64(rank == 0 ? 0 : place))
                        #expect(sum == expected, "rank \(rank), \(count) elements")
                        if rank == 0 { continue }
                        let given: [Float] = try streams[rank].read(count, at: base(rank))
                        #expect(given.allSatisfy { $0 == 0 })
                    }
                }
            }
        }
    }
}

extension Stream {
    fileprivate func read<Element>(_ count: Int, at address: UInt64) throws -> [Element] {
        let memory = UnsafeMutablePointer<Element>.allocate(capacity: count)
        defer { memory.deallocate() }
        try download(address, to: memory, byteCount: count * MemoryLayout<Element>.stride)
        try synchronize()
        return Array(UnsafeBufferPointer(start: memory, count: count))
    }
}
