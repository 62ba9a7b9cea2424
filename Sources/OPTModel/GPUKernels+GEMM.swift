import CUDA
import CUDAKernelImage

/// The matrix products of many rows: tiles of two sizes and two layouts, and a plain kernel for odd sizes. The
/// constants are those of `gemm.cu`.
struct GEMMKernels: Sendable {
    private let large, largeTransposed, small, smallTransposed, anySize: KernelFunction
    private let multiprocessorCount: Int

    private static let largeRows = 128
    private static let smallRows = 64
    private static let tileOutputs = 128
    private static let block = 128
    private static let sharedByteCount = 98304

    init(_ module: Module, multiprocessorCount: Int) throws(CUDAError) {
        large = try module.function(named: "tandem_kernel_gemm_large")
        largeTransposed = try module.function(named: "tandem_kernel_gemm_large_transposed")
        small = try module.function(named: "tandem_kernel_gemm_small")
        smallTransposed = try module.function(named: "tandem_kernel_gemm_small_transposed")
        anySize = try module.function(named: "tandem_kernel_gemm_any")
        self.multiprocessorCount = multiprocessorCount
        for kernel in [large, largeTransposed, small, smallTransposed] {
            try kernel.setMaxDynamicSharedByteCount(Self.sharedByteCount)
        }
    }

    func launch(_ a: tandem_gpu_gemm, on stream: Stream) throws(CUDAError) {
        let rows = Int(a.rows)
        let outputs = Int(a.outputs)
        guard (a.inputs | a.outputs | a.x_stride | a.y_stride) % 8 == 0 else {
            try stream.launch(
                anySize, grid: (divideUp(rows, 16), divideUp(outputs, 16), 1), block: 16, blockRows: 16,
                arguments: a)
            return
        }
        let isSmall = Self.isSmallBetter(
            rows: rows, outputs: outputs, multiprocessorCount: multiprocessorCount)
        let kernel =
            isSmall
            ? (a.transposed != 0 ? smallTransposed : small) : (a.transposed != 0 ? largeTransposed : large)
        try stream.launch(
            kernel,
            grid: (
                divideUp(rows, isSmall ? Self.smallRows : Self.largeRows),
                divideUp(outputs, Self.tileOutputs), 1
            ), block: Self.block, sharedByteCount: Self.sharedByteCount, isProgrammatic: true, arguments: a)
    }

    /// Where a large tile would be mostly padding, or there are too few of them for all multiprocessors.
    static func isSmallBetter(rows: Int, outputs: Int, multiprocessorCount: Int) -> Bool {
        let paddedSmall = smallRows * divideUp(rows, smallRows)
        let paddedLarge = largeRows * divideUp(rows, largeRows)
        let tiles = divideUp(rows, largeRows) * divideUp(outputs, tileOutputs)
        return 5 * paddedSmall < 4 * paddedLarge || 2 * tiles <= 3 * multiprocessorCount
    }
}
