import AllocationCounter
import Testing

@testable import CUDA

@Suite(.serialized) struct LaunchTests {
    @Test func `the launch structures lie in memory as the driver declares them`() {
        #expect(MemoryLayout<LaunchConfiguration>.stride == 56)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.gridX) == 0)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.blockX) == 12)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.sharedByteCount) == 24)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.stream) == 32)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.attributes) == 40)
        #expect(MemoryLayout<LaunchConfiguration>.offset(of: \.attributeCount) == 48)
        #expect(MemoryLayout<LaunchAttribute>.stride == 72)
        #expect(MemoryLayout<LaunchAttribute>.offset(of: \.value) == 8)
    }

    @Test func `a launch hands over its grid, its attribute and its argument by value`() throws {
        let context = try RecordingDriver.context()
        let stream = try Stream(context: context)
        let function = try kernel(context)
        let arguments = SIMD4<UInt32>(1, 2, 3, 4)

        try stream.launch(
            function, grid: (5, 6, 7), block: 128, sharedByteCount: 4096, isProgrammatic: true,
            arguments: arguments)
        let launch = try #require(RecordingDriver.lastLaunch)
        #expect(launch.configuration.gridX == 5)
        #expect(launch.configuration.gridY == 6)
        #expect(launch.configuration.gridZ == 7)
        #expect(launch.configuration.blockX == 128)
        #expect(launch.configuration.blockY == 1)
        #expect(launch.configuration.blockZ == 1)
        #expect(launch.configuration.sharedByteCount == 4096)
        #expect(launch.attribute?.id == 6)
        #expect(launch.attribute?.value.0 == 1)
        #expect(launch.parameter == arguments)

        try stream.launch(function, grid: (1, 1, 1), block: 32, arguments: arguments)
        #expect(RecordingDriver.lastLaunch?.configuration.attributeCount == 0)
    }

    @Test func `a GPU older than 9 gets no programmatic launch`() throws {
        let context = try RecordingDriver.context(computeCapability: 89)
        let stream = try Stream(context: context)
        try stream.launch(
            kernel(context), grid: (1, 1, 1), block: 32, isProgrammatic: true,
            arguments: SIMD4<UInt32>(repeating: 0))
        #expect(RecordingDriver.lastLaunch?.configuration.attributeCount == 0)
    }

    @Test func `launches, copies and events allocate nothing`() throws {
        let context = try RecordingDriver.context()
        let stream = try Stream(context: context)
        let event = try Event(context: context)
        let function = try kernel(context)
        var host: UInt64 = 0
        func step() throws {
            for _ in 0..<16 {
                try stream.launch(
                    function, grid: (1, 1, 1), block: 32, isProgrammatic: true,
                    arguments: SIMD4<UInt32>(repeating: 0))
                try stream.upload(&host, to: 256, byteCount: 8)
                try stream.fill(256, byteCount: 8)
                try event.record(on: stream)
                try stream.wait(for: event)
                try stream.write(1, to: 256)
            }
        }
        try step()
        let before = tandem_allocations_of_this_thread()
        for _ in 0..<8 { try step() }
        let allocations = tandem_allocations_of_this_thread() - before
        #expect(allocations == 0)
    }

    @Test func `the driver's refusal to allocate is named, and nothing is freed`() throws {
        let context = try RecordingDriver.context(statusOf: ["cuMemAlloc_v2": 2])
        do {
            _ = try DeviceBuffer(byteCount: 1 << 40, context: context)
            Issue.record("an allocation that the driver refused")
        } catch {
            #expect(error.code == .outOfMemory)
            #expect(error.description.hasPrefix("while allocating 1099511627776 bytes on GPU 0: "))
        }
    }

    private func kernel(_ context: Context) throws -> KernelFunction {
        let image = KernelImage(
            bytes: UnsafeRawPointer(bitPattern: 16)!, computeCapability: 90, isMachineCode: true)
        return try Module(image: image, context: context).function(named: "tandem_kernel_signal")
    }
}
