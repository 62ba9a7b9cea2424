import CUDA
import CUDAKernelImage

/// The kernels of decode steps of several sequences whose weights the copy engine brings, in the image for 9.0 alone.
struct BoxKernels: Sendable {
    /// By outputs of a block, then by each eight rows.
    private let linear: [Int: [KernelFunction]]
    private let linearTransposed: [KernelFunction]
    private let layerNormParts: KernelFunction

    /// The inputs of a stage.
    static let depth = 64
    /// The outputs of a block where the weights lie [inputs, outputs].
    static let transposedBlockOutputs = 64
    static let blockOutputs = [48, 64]
    static let mostSplits = 8

    init(_ module: Module) throws(CUDAError) {
        func kernels(_ name: String) throws(CUDAError) -> [KernelFunction] {
            var kernels: [KernelFunction] = []
            for tiles in 1...Int(TANDEM_GPU_FEW_ROWS) / 8 {
                let kernel = try module.function(named: "tandem_kernel_linear_boxes_\(name)_\(tiles)")
                try kernel.setMaxDynamicSharedByteCount(Int(TANDEM_GPU_BOXES_SHARED_BYTES))
                kernels.append(kernel)
            }
            return kernels
        }
        var linear: [Int: [KernelFunction]] = [:]
        for outputs in Self.blockOutputs { linear[outputs] = try kernels("\(outputs)") }
        self.linear = linear
        linearTransposed = try kernels("transposed")
        layerNormParts = try module.function(named: "tandem_kernel_layer_norm_parts")
    }

    /// W [outputs, inputs], whose map has boxes of so many outputs.
    func linear(_ a: tandem_gpu_linear_boxes, blockOutputs: Int, on stream: Stream) throws(CUDAError) {
        try launch(linear[blockOutputs]!, a, blockOutputs: blockOutputs, on: stream)
    }

    /// W [inputs, outputs].
    func linearTransposed(_ a: tandem_gpu_linear_boxes, on stream: Stream) throws(CUDAError) {
        try launch(linearTransposed, a, blockOutputs: Self.transposedBlockOutputs, on: stream)
    }

    func layerNorm(_ a: tandem_gpu_layer_norm_parts, rowCount: Int, on stream: Stream) throws(CUDAError) {
        precondition(a.hidden % 4 == 0 && a.hidden <= 12288, "BoxKernels: hidden size \(a.hidden)")
        try stream.launch(
            layerNormParts, grid: (rowCount, 1, 1), block: 1024, isProgrammatic: true, arguments: a)
    }

    private func launch(
        _ kernels: [KernelFunction], _ a: tandem_gpu_linear_boxes, blockOutputs: Int, on stream: Stream
    ) throws(CUDAError) {
        try stream.launch(
            kernels[divideUp(Int(a.rows), 8) - 1],
            grid: (divideUp(Int(a.outputs), blockOutputs), Int(a.split_count), 1),
            block: Int(TANDEM_GPU_BOXES_BLOCK), sharedByteCount: Int(TANDEM_GPU_BOXES_SHARED_BYTES),
            isProgrammatic: true, arguments: a)
    }

    // MARK: Cuts

    /// The outputs of a block with which the multiprocessors, two blocks each at a time, have least to do in turn.
    static func blockOutputs(outputs: Int, multiprocessorCount: Int) -> Int {
        blockOutputs.reversed().min {
            $0 * rounds(divideUp(outputs, $0), multiprocessorCount)
                < $1 * rounds(divideUp(outputs, $1), multiprocessorCount)
        }!
    }

    /// The parts of the inputs where the weights lie [inputs, outputs], each with a stage at least for every warp.
    static func splitCount(inputs: Int, outputs: Int, multiprocessorCount: Int) -> Int {
        let tiles = divideUp(outputs, transposedBlockOutputs)
        let most = max(1, min(mostSplits, inputs / (8 * depth)))
        // In whole numbers of 1 / 840 of the inputs, which every count up to 8 divides.
        return (1...most).min {
            rounds(tiles * $0, multiprocessorCount) * 840 / $0
                < rounds(tiles * $1, multiprocessorCount) * 840 / $1
        }!
    }

    private static func rounds(_ blockCount: Int, _ multiprocessorCount: Int) -> Int {
        divideUp(blockCount, 2 * multiprocessorCount)
    }
}

extension TensorMap {
    /// Of W [outputs, inputs], for `BoxKernels.linear`.
    init(boxesOf blockOutputs: Int, at address: UInt64, outputs: Int, inputs: Int, context: Context)
        throws(CUDAError)
    {
        try self.init(
            ofHalvesAt: address, sizes: [inputs, outputs], strides: [2 * inputs],
            box: [BoxKernels.depth, blockOutputs], context: context)
    }

    /// Of W [inputs, outputs], for `BoxKernels.linearTransposed`.
    init(transposedBoxesAt address: UInt64, inputs: Int, outputs: Int, context: Context) throws(CUDAError) {
        try self.init(
            ofHalvesAt: address, sizes: [outputs, inputs], strides: [2 * outputs],
            box: [BoxKernels.transposedBlockOutputs, BoxKernels.depth], context: context)
    }

    /// Of activations [rows, stride], of which `rowTiles` times eight rows come at a time.
    init(rowsAt address: UInt64, rows: Int, inputs: Int, stride: Int, rowTiles: Int, context: Context)
        throws(CUDAError)
    {
        try self.init(
            ofHalvesAt: address, sizes: [inputs, rows], strides: [2 * stride],
            box: [BoxKernels.depth, 8 * rowTiles], context: context)
    }
}
