import CUDA
import CUDAKernelImage
import Testing

@testable import OPTModel

/// cuBLASLt's products against those of the kernels, which the table of checks compares with the reference.
@Suite(
    .serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"),
    .enabled(if: (try? CUBLASLt.shared.get()) != nil, "there is no cuBLASLt"))
struct LibraryProductsTests {
    static let sizes = [(40, 64, 128), (100, 768, 2304), (513, 256, 1024), (2048, 1024, 64), (33, 8, 24)]

    @Test(arguments: sizes, [false, true])
    func `products are those of the kernels`(
        size: (rows: Int, inputs: Int, outputs: Int), hasBias: Bool
    ) throws {
        let context = try Context(device: CUDADriver.load().device())
        let bench = try GPUWorkbench(context)
        try bench.clear()
        let (rows, inputs, outputs) = size
        let x = try bench.upload(bench.random.floats(rows * inputs).map { Float16($0) })
        let weights = try bench.upload(bench.random.floats(inputs * outputs).map { Float16($0 / 8) })
        let bias = hasBias ? try bench.upload(bench.random.floats(outputs).map { Float(Float16($0)) }) : 0
        let initial = bench.random.floats(rows * outputs)
        let products = try LibraryProducts(
            try CUBLASLt.shared.get(), biases: hasBias ? [(bias, outputs)] : [], context: context,
            stream: bench.stream)
        for (isTransposed, toFloat) in [(false, false), (true, true)] {
            var results: [[Float]] = []
            for usesLibrary in [true, false] {
                let y =
                    toFloat ? try bench.upload(initial) : try bench.reserve(rows * outputs, of: Float16.self)
                let product = tandem_gpu_gemm(
                    x: x, weights: weights, bias: bias, y: toFloat ? 0 : y, residual: toFloat ? y : 0,
                    x_stride: UInt32(inputs), y_stride: toFloat ? 0 : UInt32(outputs), rows: UInt32(rows),
                    inputs: UInt32(inputs), outputs: UInt32(outputs),
                    activation: toFloat ? 0 : UInt32(TANDEM_GPU_RELU), transposed: isTransposed ? 1 : 0)
                if usesLibrary {
                    #expect(try products.multiply(product, on: bench.stream))
                } else {
                    try bench.kernels.gemm(product, on: bench.stream)
                }
                try bench.finish()
                results.append(
                    toFloat
                        ? try bench.download(y, rows * outputs, of: Float.self)
                        : try bench.download(y, rows * outputs, of: Float16.self).map { Float($0) })
            }
            #expect(relativeError(results[0], results[1]) < (toFloat ? 1e-5 : 1e-3))
        }
    }
}
