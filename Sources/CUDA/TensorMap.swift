/// How the copy engine of GPUs from 9.0 on finds boxes of a matrix in GPU memory: `CUtensorMap`, 128 bytes.
public struct TensorMap: Sendable {
    public typealias Words = (
        UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64,
        UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
    )

    public let words: Words

    /// A map of halves, whose boxes come to shared memory in 128-byte swizzle; what is outside is zeros.
    ///
    /// - Parameters:
    ///   - address: of the first element, a multiple of 16.
    ///   - sizes: elements of each dimension, the innermost first.
    ///   - strides: bytes from one element to the next, of all dimensions but the innermost; multiples of 16.
    ///   - box: elements of a box in each dimension; 64 in the innermost.
    public init(
        ofHalvesAt address: DeviceAddress, sizes: [Int], strides: [Int], box: [Int], context: Context
    ) throws(CUDAError) {
        precondition(strides.count == sizes.count - 1 && box.count == sizes.count, "TensorMap: dimensions")
        let byteCount = MemoryLayout<Words>.size
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
        defer { memory.deallocate() }
        let float16: Int32 = 6
        let swizzle128Bytes: Int32 = 3
        let status = context.functions.cuTensorMapEncodeTiled(
            memory, float16, UInt32(sizes.count), address, sizes.map { UInt64($0) },
            strides.map { UInt64($0) },
            box.map { UInt32($0) }, sizes.map { _ in 1 }, 0, swizzle128Bytes, 0, 0)
        try context.check(status, "describing a matrix of \(sizes) to the copy engine")
        words = memory.load(as: Words.self)
    }
}
