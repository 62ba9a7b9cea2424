import CPUKernels
import Testing

@Suite struct MeasureTests {
    @Test(arguments: KernelSet.all)
    func `the read loops sum every byte once`(set: KernelSet) {
        var random = SplitMix64(3)
        for count in [0, 1, 7, 8, 63, 64, 255, 256, 257, 1000, 5003, 16384, 40001] {
            let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            var expected: UInt64 = 0
            for (index, byte) in bytes.enumerated() { expected &+= UInt64(byte) << (8 * UInt64(index % 8)) }
            let buffer = FencedBuffer(bytes)
            #expect(set.kernels.pointee.read_all(buffer.pointer, count) == expected)
            #expect(set.kernels.pointee.read_in_order(buffer.pointer, count) == expected)
        }
    }

    @Test(arguments: KernelSet.all)
    func `multiply_add_peak does the operations it reports`(set: KernelSet) {
        var sink: Float = 0
        let one = set.kernels.pointee.multiply_add_peak(1, &sink)
        #expect(one > 0 && sink.isFinite && sink != 0)
        #expect(set.kernels.pointee.multiply_add_peak(1000, &sink) == 1000 * one)
    }
}
