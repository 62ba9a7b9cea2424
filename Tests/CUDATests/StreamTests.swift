import CUDA
import CUDAKernelImage
import HostRuntime
import Testing

extension GPUTests {
    @Suite(.enabled(if: GPU.isPresent, "no GPU"), .timeLimit(.minutes(2)))
    struct StreamTests {
        /// Words that both sides see.
        struct Words: ~Copyable {
            let buffer: PinnedBuffer

            init(_ context: Context) throws {
                buffer = try PinnedBuffer(HostBuffer(byteCount: 4096), context: context)
                for index in 0..<1024 { self[index] = 0 }
            }

            /// Lets go every stream that still waits for word 0, of which a failed test may have one: the memory
            /// could not be given back before.
            deinit { self[0] = 1 }

            subscript(index: Int) -> UInt32 {
                get { (buffer.baseAddress + 4 * index).load(as: UInt32.self) }
                nonmutating set { (buffer.baseAddress + 4 * index).storeBytes(of: newValue, as: UInt32.self) }
            }

            func address(_ index: Int) -> DeviceAddress { buffer.deviceAddress + UInt64(4 * index) }
        }

        /// Keeps a stream from going on until word 0 is 1, for two seconds at most: freeing memory, which other tests
        /// do at the same time, waits for all streams.
        func hold(_ stream: CUDA.Stream, until words: borrowing Words) throws {
            let wait = try GPU.kernels(stream.context).function(named: "tandem_kernel_wait")
            try stream.launch(
                wait, grid: (1, 1, 1), block: 1,
                arguments: tandem_gpu_wait(
                    flag: words.address(0), failure: words.address(2), value: 1,
                    timeout_nanoseconds: 2_000_000_000, limit: .init()))
        }

        @Test func `the device says what it is`() throws {
            let driver = try CUDADriver.load()
            let device = try driver.device()
            #expect(driver.version >= 12000)
            #expect(!device.name.isEmpty)
            #expect(device.computeCapability >= 80)
            #expect(device.totalByteCount > 1 << 30)
            #expect(device.multiprocessorCount > 0)
            #expect(device.maxSharedByteCountPerBlock >= 48 << 10)
            #expect(device.l2ByteCount > 1 << 20)
            #expect(device.pciBusID.split(separator: ":").count == 3)
            let error = #expect(throws: CUDAError.self) { try driver.device(driver.deviceCount) }
            #expect(error?.code == .noDevice)
        }

        @Test func `an event is reached after what was in front of it, and timed ones know the time`() throws
        {
            let context = try GPU.context()
            let stream = try Stream(context: context, priority: .high)
            let words = try Words(context)
            let start = try Event(context: context, isTimed: true)
            let end = try Event(context: context, isTimed: true)
            #expect(try end.isComplete, "an event that was never recorded")
            try start.record(on: stream)
            try hold(stream, until: words)
            try end.record(on: stream)
            #expect(try !end.isComplete)
            words[0] = 1
            try waitUntil("event") { try end.isComplete }
            try end.synchronize()
            let milliseconds = try end.elapsedMilliseconds(since: start)
            #expect(milliseconds > 0 && milliseconds < 10_000)
        }

        @Test func `a stream waits for another one's event`() throws {
            let context = try GPU.context()
            let first = try Stream(context: context)
            let second = try Stream(context: context)
            let words = try Words(context)
            let event = try Event(context: context)
            try hold(first, until: words)
            try event.record(on: first)
            try second.wait(for: event)
            try second.write(9, to: words.address(1))
            #expect(try !second.isIdle)
            words[0] = 1
            try waitUntil("second stream") { try second.isIdle }
            #expect(words[1] == 9)
        }

        @Test(arguments: [false, true])
        func `a kernel signals the host, one by one in order`(isProgrammatic: Bool) throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let words = try Words(context)
            let signal = try GPU.kernels(context).function(named: "tandem_kernel_signal")
            for index in 0..<100 {
                try stream.launch(
                    signal, grid: (1, 1, 1), block: 1, isProgrammatic: isProgrammatic,
                    arguments: tandem_gpu_signal(
                        flag: words.address(index % 10), notice: 0, value: UInt32(index), notice_value: 0,
                        limit: .init()))
            }
            try waitUntil("kernels") { try stream.isIdle }
            #expect((0..<10).map { words[$0] } == Array(90..<100))
        }

        @Test func `a kernel that waits goes on when the host writes, and gives up in time when nobody does`()
            throws
        {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let words = try Words(context)
            let module = try GPU.kernels(context)
            let wait = try module.function(named: "tandem_kernel_wait")
            let signal = try module.function(named: "tandem_kernel_signal")
            func run(timeoutNanoseconds: UInt64) throws {
                try stream.launch(
                    wait, grid: (1, 1, 1), block: 1,
                    arguments: tandem_gpu_wait(
                        flag: words.address(0), failure: words.address(1), value: 5,
                        timeout_nanoseconds: timeoutNanoseconds, limit: .init()))
                try stream.launch(
                    signal, grid: (1, 1, 1), block: 1, isProgrammatic: true,
                    arguments: tandem_gpu_signal(
                        flag: words.address(2), notice: 0, value: 1, notice_value: 0, limit: .init())
                )
            }
            try run(timeoutNanoseconds: 5_000_000_000)
            #expect(try !stream.isIdle)
            #expect(words[2] == 0, "the kernel behind the wait ran before the flag was written")
            words[0] = 5
            try waitUntil("flag") { try stream.isIdle }
            #expect((1...2).map { words[$0] } == [0, 1])

            words[0] = 4
            words[2] = 0
            try run(timeoutNanoseconds: 20_000_000)
            try waitUntil("timeout") { try stream.isIdle }
            #expect((1...2).map { words[$0] } == [1, 1])
        }

        @Test func `a captured graph runs nothing, then all of it at every launch`() throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let words = try Words(context)
            let counted = try DeviceBuffer(byteCount: 4, context: context)
            let read = try GPU.kernels(context).function(named: "tandem_kernel_read")
            // 16 bytes whose words add up to 1.
            words[4] = 1
            try stream.fill(counted.address, byteCount: 4)
            let graph = try Graph(capturing: stream) { () throws(CUDAError) in
                for _ in 0..<3 {
                    try stream.launch(
                        read, grid: (1, 1, 1), block: 512, isProgrammatic: true,
                        arguments: tandem_gpu_read(
                            bytes: words.address(4), digest: counted.address, byte_count: 16))
                }
                try stream.copy(counted.address, to: words.address(0), byteCount: 4)
            }
            #expect(try graph.nodeCount == 4)
            let executable = try graph.instantiate()
            try waitUntil("capture") { try stream.isIdle }
            #expect(words[0] == 0)
            try executable.upload(on: stream)
            for launch in 1...4 {
                try executable.launch(on: stream)
                try waitUntil("graph") { try stream.isIdle }
                #expect(words[0] == UInt32(3 * launch))
            }
        }

        @Test func `a capture that fails leaves the stream usable`() throws {
            let context = try GPU.context()
            let stream = try Stream(context: context)
            let words = try Words(context)
            do {
                _ = try Graph(capturing: stream) { () throws(CUDAError) in try stream.synchronize() }
                Issue.record("a wait was captured")
            } catch {
                #expect(error.code == .captureFailed)
            }
            try stream.write(1, to: words.address(0))
            try waitUntil("stream") { try stream.isIdle }
            #expect(words[0] == 1)
        }

        @Test func `every image that runs here loads, and a kernel that is not there is named`() throws {
            let context = try GPU.context()
            let images = GPU.images.filter { $0.runs(on: context.device.computeCapability) }
            for image in images {
                let module = try Module(image: image, context: context)
                let read = try module.function(named: "tandem_kernel_read")
                #expect(try read.maxActiveBlocksPerMultiprocessor(block: 512) >= 1)
                #expect(try read.registersPerThread > 0)
                try read.setMaxDynamicSharedByteCount(context.device.maxSharedByteCountPerBlock - 1024)
                let error = #expect(throws: CUDAError.self) { try module.function(named: "no_such_kernel") }
                #expect(error?.code == .missingKernel)
                #expect(error?.description.contains("no_such_kernel") == true)
            }
            #expect(!images.isEmpty)
        }

        @Test func `an image that does not compile is refused with the compiler's words`() throws {
            let context = try GPU.context()
            let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { nonsense; }\n"
            let error = text.withCString { text in
                #expect(throws: CUDAError.self) {
                    try Module(
                        image: KernelImage(bytes: text, computeCapability: 80, isMachineCode: false),
                        context: context)
                }
            }
            #expect(error?.code == .invalidImage)
            #expect(error?.reason.contains("nonsense") == true)
        }
    }
}
