import CUDA
import CUDAKernelImage
import Glibc
import HostRuntime
import Synchronization
import Testing

@testable import OPTModel

extension EmulatedGPUTests {
    /// The handshake alone: the emulated GPU's kernels in a stream on one side, this thread and others on the other.
    @Suite(.serialized) struct LaneLinkTests {
        private static let rows = 3
        private static let columns = 8

        /// A link with the memory of a GPU's side: a step's number, values, and where answers go.
        private final class Bench {
            let context: Context
            let link: LaneLink
            let kernels: GPUKernels
            let stream: CUDA.Stream
            private let memory: DeviceBuffer
            private static let valuesOffset: UInt64 = 64

            var step: UInt64 { memory.address }
            func values(_ exchange: Int) -> UInt64 {
                memory.address + Self.valuesOffset + UInt64(exchange * 2 * LaneLinkTests.byteCount)
            }
            func answer(_ exchange: Int) -> UInt64 { values(exchange) + UInt64(LaneLinkTests.byteCount) }

            init(exchangeCount: Int, _ limits: LaneLink.TimeLimits = LaneLink.TimeLimits()) throws {
                EmulatedGPU.isConcurrent = true
                context = try EmulatedGPU.context()
                kernels = try GPUKernels(context)
                stream = try Stream(context: context)
                memory = try DeviceBuffer(
                    byteCount: 64 + exchangeCount * 2 * LaneLinkTests.byteCount, context: context)
                link = try LaneLink(
                    LaneLink.Shape(
                        exchangeCount: exchangeCount, inputByteCount: LaneLinkTests.byteCount,
                        answerByteCount: LaneLinkTests.byteCount), limits: limits, context: context)
                memset(EmulatedGPU.pointer(step, to: UInt8.self), 0, memory.byteCount)
            }

            deinit { EmulatedGPU.isConcurrent = false }

            func setStep(_ number: UInt32) { EmulatedGPU.pointer(step, to: UInt32.self).pointee = number }

            func publish(_ exchange: Int) throws(CUDAError) {
                try kernels.link.publish(
                    tandem_gpu_publish(
                        from: values(exchange), to: link.inputAddress, step: step,
                        word: link.inputWordAddress(exchange), counter: 0,
                        rows: UInt32(LaneLinkTests.rows), stride: UInt32(LaneLinkTests.columns),
                        columns: UInt32(LaneLinkTests.columns)), on: stream)
            }

            func await(_ exchange: Int) throws(CUDAError) {
                try kernels.link.await(
                    tandem_gpu_await(
                        from: link.answerAddress, to: answer(exchange), step: step,
                        word: link.answerWordAddress(exchange), abort: link.abortAddress,
                        rows: UInt32(LaneLinkTests.rows), stride: UInt32(LaneLinkTests.columns),
                        columns: UInt32(LaneLinkTests.columns),
                        timeout_nanoseconds: UInt64(link.limits.gpuSeconds * 1e9)), on: stream)
            }
        }

        private static var count: Int { rows * columns }
        private static var byteCount: Int { count * 2 }

        private func elements(_ address: UInt64) -> UnsafeMutableBufferPointer<UInt16> {
            UnsafeMutableBufferPointer(
                start: EmulatedGPU.pointer(address, to: UInt16.self), count: Self.count)
        }

        @Test(arguments: [1, 3])
        func `a graph that is captured once exchanges each step's values`(threadCount: Int) throws {
            let exchangeCount = 4
            let bench = try Bench(exchangeCount: exchangeCount)
            let link = bench.link
            let graph = try Graph(capturing: bench.stream) { () throws(CUDAError) in
                for exchange in 0..<exchangeCount {
                    try bench.publish(exchange)
                    try bench.await(exchange)
                }
            }.instantiate()
            let pool = WorkerPool(workerCount: threadCount)
            let wrongCount = Atomic<Int>(0)
            // Numbers that wrap around: 0 is a step like others.
            for step: UInt32 in [1, 2, 3, .max - 1, .max, 0, 1, 2] {
                for exchange in 0..<exchangeCount {
                    for index in 0..<Self.count {
                        elements(bench.values(exchange))[index] = UInt16(
                            truncatingIfNeeded: Int(step) &* 31 + 1000 * exchange + index)
                    }
                }
                bench.setStep(step)
                try graph.launch(on: bench.stream)
                pool.run(
                    Answers(link, pool, step: step) { exchange, worker in
                        // Every worker answers with the values of its share, inverted.
                        let input = link.input.assumingMemoryBound(to: UInt16.self)
                        let answer = link.answer.assumingMemoryBound(to: UInt16.self)
                        for index in share(of: Self.count, worker: worker, of: threadCount) {
                            if input[index]
                                != UInt16(truncatingIfNeeded: Int(step) &* 31 + 1000 * exchange + index)
                            {
                                wrongCount.wrappingAdd(1, ordering: .relaxed)
                            }
                            answer[index] = ~input[index]
                        }
                    })
                try bench.stream.synchronize()
                for exchange in 0..<exchangeCount {
                    let expected = elements(bench.values(exchange)).map { ~$0 }
                    #expect(Array(elements(bench.answer(exchange))) == expected)
                }
            }
            #expect(wrongCount.load(ordering: .relaxed) == 0)
            #expect(link.fault == nil)
            try link.check()
        }

        /// All workers' part of all exchanges of a step.
        private final class Answers: WorkerTask, @unchecked Sendable {  // they outlive the run
            let link: LaneLink
            let pool: WorkerPool
            let step: UInt32
            let answer: (_ exchange: Int, _ worker: Int) -> Void

            init(
                _ link: LaneLink, _ pool: WorkerPool, step: UInt32,
                answer: @escaping (_ exchange: Int, _ worker: Int) -> Void
            ) {
                (self.link, self.pool, self.step, self.answer) = (link, pool, step, answer)
            }

            func run(worker: Int) {
                for exchange in 0..<link.shape.exchangeCount {
                    guard link.waitForInput(of: exchange, step: step) else { return }
                    answer(exchange, worker)
                    pool.barrier.wait()
                    if worker == 0 { link.publishAnswer(of: exchange, step: step) }
                }
            }
        }

        // MARK: What goes wrong

        @Test func `the host gives up waiting for values of this step, and the GPU at once after it`() throws
        {
            let bench = try Bench(
                exchangeCount: 2, LaneLink.TimeLimits(gpuSeconds: 30, hostSeconds: 0.05))
            bench.setStep(6)
            try bench.publish(0)
            try bench.stream.synchronize()
            #expect(bench.link.waitForInput(of: 0, step: 6))
            // Neither an earlier step's number nor another exchange's will do.
            #expect(!bench.link.waitForInput(of: 0, step: 7))
            #expect(bench.link.fault == .hostWaitedTooLong)
            let error = #expect(throws: ModelError.self) { try bench.link.check() }
            #expect(error?.description.contains("within 0.05 s; the CPU gave up waiting") == true)

            elements(bench.answer(1)).update(repeating: 77)
            let start = ContinuousClock.now
            try bench.await(1)
            try bench.stream.synchronize()
            #expect(start.duration(to: .now) < .seconds(10))
            #expect(elements(bench.answer(1)).allSatisfy { $0 == 77 })
            // The first reason stays.
            bench.link.abort(.gpuFailed)
            #expect(bench.link.fault == .hostWaitedTooLong)
        }

        @Test func `the GPU gives up waiting for an answer, and the host's threads with it`() throws {
            let bench = try Bench(
                exchangeCount: 2, LaneLink.TimeLimits(gpuSeconds: 0.05, hostSeconds: 30))
            bench.setStep(2)
            // The last step's answer is none.
            bench.link.publishAnswer(of: 0, step: 1)
            elements(bench.answer(0)).update(repeating: 77)
            let start = ContinuousClock.now
            try bench.await(0)
            let pool = WorkerPool(workerCount: 2)
            let link = bench.link
            let wentOnCount = Atomic<Int>(0)
            pool.run(
                Answers(link, pool, step: 2) { _, _ in wentOnCount.wrappingAdd(1, ordering: .relaxed) })
            #expect(start.duration(to: .now) < .seconds(10))
            #expect(wentOnCount.load(ordering: .relaxed) == 0)
            #expect(link.fault == .gpuWaitedTooLong)
            try bench.stream.synchronize()
            #expect(elements(bench.answer(0)).allSatisfy { $0 == 77 })
            let error = #expect(throws: ModelError.self) { try link.check() }
            #expect(error?.description.contains("within 0.05 s; the GPU gave up waiting") == true)
        }

        @Test func `an abort ends both sides' waits`() throws {
            let bench = try Bench(exchangeCount: 1, LaneLink.TimeLimits(gpuSeconds: 30, hostSeconds: 30))
            let link = bench.link
            bench.setStep(1)
            elements(bench.answer(0)).update(repeating: 77)
            let start = ContinuousClock.now
            try bench.await(0)
            let thread = startThread {
                usleep(20_000)
                link.abort(.gpuFailed)
            }
            #expect(!link.waitForInput(of: 0, step: 1))
            try bench.stream.synchronize()
            pthread_join(thread, nil)
            #expect(start.duration(to: .now) < .seconds(10))
            #expect(elements(bench.answer(0)).allSatisfy { $0 == 77 })
            #expect(throws: ModelError.self) { try link.check() }
        }

        @Test func `links of the same step are aborted together, and exchange apart`() throws {
            let bench = try Bench(exchangeCount: 1, LaneLink.TimeLimits(gpuSeconds: 30, hostSeconds: 30))
            let other = try LaneLink(
                LaneLink.Shape(exchangeCount: 2, inputByteCount: 8, answerByteCount: 8), partner: bench.link,
                context: bench.context)
            #expect(other.abortAddress == bench.link.abortAddress)
            #expect(other.inputAddress != bench.link.inputAddress)
            #expect(other.inputWordAddress(0) != bench.link.inputWordAddress(0))
            other.abort(.hostWaitedTooLong)
            #expect(bench.link.fault == .hostWaitedTooLong && other.fault == .hostWaitedTooLong)
            #expect(!bench.link.waitForInput(of: 0, step: 1))
        }

        @Test func `a GPU that is no longer at work ends the host's wait, unless its values came`() throws {
            let bench = try Bench(exchangeCount: 1, LaneLink.TimeLimits(gpuSeconds: 30, hostSeconds: 30))
            bench.setStep(1)
            var askedCount = 0
            let hasInput = bench.link.waitForInput(of: 0, step: 1) {
                askedCount += 1
                if askedCount < 3 { return true }
                // It ends its work just as it is asked.
                try? bench.publish(0)
                try? bench.stream.synchronize()
                return false
            }
            #expect(hasInput && askedCount == 3 && bench.link.fault == nil)
            #expect(!bench.link.waitForInput(of: 0, step: 2) { false })
            #expect(bench.link.fault == .gpuFailed)
        }
    }
}
