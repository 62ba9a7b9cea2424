import CUDA
import CUDAKernelImage

/// The products of many rows by cuBLASLt, where it takes them; `gemm.cu` takes the others: GELU, of which the library
/// has another form, and sizes that do not come in 16 bytes.
final class LibraryProducts {
    private let multiplier: MatrixMultiplier
    /// The biases of products to fp16 in fp16, as the library wants them, by the addresses of those in fp32.
    private let halfBiases: [UInt64: UInt64]
    private let memory: DeviceBuffer

    /// - Parameter biases: addresses of biases in fp32 and their counts.
    init(_ library: CUBLASLt, biases: [(address: UInt64, count: Int)], context: Context, stream: Stream)
        throws(CUDAError)
    {
        multiplier = try MatrixMultiplier(library, context: context)
        var layout = DeviceLayout()
        let offsets = biases.map { layout.add($0.count * 2) }
        memory = try DeviceBuffer(byteCount: layout.byteCount, context: context)
        var addresses: [UInt64: UInt64] = [:]
        let most = biases.map(\.count).max() ?? 0
        let floats = UnsafeMutableBufferPointer<Float>.allocate(capacity: most)
        let halves = UnsafeMutableBufferPointer<Float16>.allocate(capacity: most)
        defer {
            floats.deallocate()
            halves.deallocate()
        }
        for (bias, offset) in zip(biases, offsets) {
            try stream.download(bias.address, to: floats.baseAddress!, byteCount: bias.count * 4)
            try stream.synchronize()
            for index in 0..<bias.count { halves[index] = Float16(floats[index]) }
            try stream.upload(halves.baseAddress!, to: memory.address + offset, byteCount: bias.count * 2)
            try stream.synchronize()
            addresses[bias.address] = memory.address + offset
        }
        halfBiases = addresses
    }

    convenience init(_ library: CUBLASLt, _ weights: GPUWeights, context: Context, stream: Stream)
        throws(CUDAError)
    {
        var biases: [(address: UInt64, count: Int)] = []
        let headDimension = weights.configuration.headDimension
        for layer in weights.layers {
            for piece in layer.attention where piece.qkvBias != 0 {
                biases.append((piece.qkvBias, 3 * piece.heads.count * headDimension))
            }
            for piece in layer.mlp where layer.fc1Bias != 0 {
                biases.append((layer.fc1Bias(of: piece), piece.neurons.count))
            }
        }
        try self.init(library, biases: biases, context: context, stream: stream)
    }

    /// - Returns: false where the library does not take the product, and nothing was done.
    func multiply(_ a: tandem_gpu_gemm, on stream: Stream) throws(CUDAError) -> Bool {
        let toFloat = a.residual != 0
        var bias = a.bias
        if !toFloat && a.bias != 0 {
            guard let half = halfBiases[a.bias] else { return false }
            bias = half
        }
        if a.activation == UInt32(TANDEM_GPU_GELU) { return false }
        let product = MatrixProduct(
            rows: Int(a.rows), inputs: Int(a.inputs), outputs: Int(a.outputs), xStride: Int(a.x_stride),
            yStride: Int(toFloat ? a.outputs : a.y_stride), isTransposed: a.transposed != 0,
            addsToFloat: toFloat,
            hasBias: bias != 0, hasReLU: a.activation == UInt32(TANDEM_GPU_RELU))
        return try multiplier.multiply(
            product, x: a.x, weights: a.weights, bias: bias, y: toFloat ? a.residual : a.y, on: stream)
    }
}
