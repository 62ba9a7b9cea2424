import CPUKernels

/// How a head's keys and values lie in a cache in CPU memory, and how the processor adds to them. A plain value, for all
/// threads at once.
struct CacheForm {
    let headDimension: Int
    /// Of a key or value.
    let positionByteCount: Int
    /// Of an element, as `tandem_attention` has it.
    let bits: Int32

    init(_ configuration: OPTConfiguration) {
        headDimension = configuration.headDimension
        positionByteCount = configuration.cachePositionByteCount
        bits = Int32(configuration.cacheBits)
    }

    /// Rounds a key or value and puts it into a line, [capacity, head dimension].
    @inline(__always)
    func store(
        _ source: UnsafePointer<Float>, in line: UnsafeMutableRawPointer, position: Int,
        _ kernels: tandem_cpu_kernels
    ) {
        let destination = line + position * positionByteCount
        if bits == 4 {
            kernels.quantize_position(source, destination, headDimension)
        } else {
            kernels.half_from_float(
                source, destination.assumingMemoryBound(to: UInt16.self), headDimension)
        }
    }
}
