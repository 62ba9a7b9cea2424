import CUDA
import CUDAKernelImage
import Placement

/// The GPU's operations: which kernel takes which sizes, and how it is launched.
///
/// Launches go to the stream in order and return at once. `isProgrammatic` lets a kernel start before the one in front
/// of it has ended; it is left out where the weights are streamed, so that nothing of a staging slot is read early.
final class GPUKernels: Sendable {
    let multiprocessorCount: Int

    private let embedKernel, layerNormKernel, sampleKernel, allReduceKernel, waitKernel, signalKernel,
        readKernel: KernelFunction
    let attention, attentionOf4Bits: AttentionKernels
    private let linearNormalizedKernel, linearClusterKernel: KernelFunction
    private let hasCopyEngine: Bool
    private let linearKernels, linearTransposedKernels: FewRowsKernels
    private let gemmKernels: GEMMKernels
    private let decodeStepKernels: [CompressionForm: DecodeStepKernels]
    private let rankStepKernels: DecodeStepKernels?
    let boxes: BoxKernels?
    let quantized: QuantizedKernels
    let link: LinkKernels

    /// - Parameter hasCopyEngine: the module's image was made for 9.0 or newer.
    init(_ module: Module, multiprocessorCount: Int, hasCopyEngine: Bool) throws(CUDAError) {
        self.multiprocessorCount = multiprocessorCount
        self.hasCopyEngine = hasCopyEngine
        linearNormalizedKernel = try module.function(named: "tandem_kernel_linear_normalized")
        linearClusterKernel = try module.function(named: "tandem_kernel_linear_transposed_cluster")
        embedKernel = try module.function(named: "tandem_kernel_embed")
        layerNormKernel = try module.function(named: "tandem_kernel_layer_norm")
        sampleKernel = try module.function(named: "tandem_kernel_sample")
        allReduceKernel = try module.function(named: "tandem_kernel_all_reduce")
        waitKernel = try module.function(named: "tandem_kernel_wait")
        signalKernel = try module.function(named: "tandem_kernel_signal")
        readKernel = try module.function(named: "tandem_kernel_read")
        attention = try AttentionKernels(module, cacheBits: 16, hasCopyEngine: hasCopyEngine)
        attentionOf4Bits = try AttentionKernels(module, cacheBits: 4, hasCopyEngine: hasCopyEngine)
        linearKernels = try FewRowsKernels(module, "tandem_kernel_linear")
        linearTransposedKernels = try FewRowsKernels(module, "tandem_kernel_linear_transposed")
        gemmKernels = try GEMMKernels(module, multiprocessorCount: multiprocessorCount)
        var stepKernels: [CompressionForm: DecodeStepKernels] = [:]
        for form in hasCopyEngine ? CompressionForm.all : [] {
            let cache = form.compressesCache ? "_cache_\(form.cacheBits)_bits" : ""
            stepKernels[form] = try DecodeStepKernels(
                module, "tandem_kernel_decode_\(form.weightBits)_bits\(cache)", hasHeadsOf80: form == .fp16)
        }
        decodeStepKernels = stepKernels
        rankStepKernels = hasCopyEngine ? try DecodeStepKernels(module, "tandem_kernel_decode_ranks") : nil
        boxes = hasCopyEngine ? try BoxKernels(module) : nil
        quantized = try QuantizedKernels(module, hasClusters: hasCopyEngine)
        link = try LinkKernels(module)
        try linearNormalizedKernel.setMaxDynamicSharedByteCount(
            Self.linearSumsByteCount + Self.mostNormalizedRows * Self.mostNormalizedInputs * 2)
        for kernel in linearKernels.byRowTiles {
            try kernel.setMaxDynamicSharedByteCount(Self.linearSumsByteCount)
        }
    }

    func embed(_ a: tandem_gpu_embed, rowCount: Int, on stream: Stream) throws(CUDAError) {
        try stream.launch(embedKernel, grid: (rowCount, 1, 1), block: 256, arguments: a)
    }

    func layerNorm(_ a: tandem_gpu_layer_norm, rowCount: Int, on stream: Stream) throws(CUDAError) {
        precondition(a.hidden <= 12288 || a.normalize == 0, "GPUKernels: hidden size \(a.hidden)")
        try stream.launch(
            layerNormKernel, grid: (rowCount, 1, 1), block: 256, isProgrammatic: true, arguments: a)
    }

    /// x · Wᵀ for few rows, W [outputs, inputs]; with `residual` among the arguments x is its layer norm.
    func linear(_ a: tandem_gpu_linear, on stream: Stream) throws(CUDAError) {
        if a.outputs == 0 { return }
        let blocks = min(divideUp(Int(a.outputs), 16), multiprocessorCount)
        if a.residual != 0 {
            precondition(
                canNormalize(rows: Int(a.rows), inputs: Int(a.inputs)),
                "GPUKernels: \(a.rows) rows of \(a.inputs)")
            try stream.launch(
                linearNormalizedKernel, grid: (blocks, 1, 1), block: 768,
                sharedByteCount: Self.linearSumsByteCount + Int(a.rows) * Int(a.inputs) * 2,
                isProgrammatic: a.is_resident != 0, arguments: a)
            return
        }
        guard a.inputs % 8 == 0 && a.x_stride % 8 == 0 else {
            try stream.launch(
                linearKernels.anySize, grid: (divideUp(Int(a.outputs), 8), 1, 1), block: 256, arguments: a)
            return
        }
        let tiles = divideUp(Int(a.rows), 8)
        try stream.launch(
            linearKernels.byRowTiles[tiles - 1], grid: (blocks, 1, 1), block: tiles == 1 ? 768 : 256,
            sharedByteCount: Self.linearSumsByteCount, isProgrammatic: a.is_resident != 0, arguments: a)
    }

    /// Whether `linear` can normalize its input itself, which beats a kernel of its own for one row or two.
    func canNormalize(rows: Int, inputs: Int) -> Bool {
        rows <= Self.mostNormalizedRows && inputs % 8 == 0 && inputs <= Self.mostNormalizedInputs
    }

    /// residual += x · W, W [inputs, outputs], for few rows. `split_count` of the arguments is chosen here.
    func linearTransposed(_ a: tandem_gpu_linear_transposed, on stream: Stream) throws(CUDAError) {
        if a.inputs == 0 { return }
        guard a.outputs % 8 == 0 && a.inputs % 4 == 0 && a.x_stride % 4 == 0 else {
            try stream.launch(
                linearTransposedKernels.anySize, grid: (divideUp(Int(a.outputs), 256), Int(a.rows), 1),
                block: 256, arguments: a)
            return
        }
        var a = a
        let outputTiles = divideUp(Int(a.outputs), 64)
        let rowTiles = divideUp(Int(a.rows), 8)
        let splits = splitCount(outputTiles: outputTiles, inputs: Int(a.inputs))
        let isCluster = hasCopyEngine && rowTiles == 1 && splits == Self.clusterBlocks
        a.split_count = UInt32(splits)
        try stream.launch(
            isCluster ? linearClusterKernel : linearTransposedKernels.byRowTiles[rowTiles - 1],
            grid: (outputTiles, splits, 1), block: rowTiles == 1 ? 512 : 256,
            isProgrammatic: a.is_resident != 0, clusterRows: isCluster ? splits : 1, arguments: a)
    }

    func gemm(_ a: tandem_gpu_gemm, on stream: Stream) throws(CUDAError) {
        if a.outputs == 0 || a.inputs == 0 { return }
        try gemmKernels.launch(a, on: stream)
    }

    /// Whether `decodeStep` takes a model of these sizes, or a rank's part of one.
    func canDecodeStep(headDimension: Int, hiddenSize: Int, form: CompressionForm) -> Bool {
        decodeStepKernels[form]?.kernel(headDimension: headDimension, hiddenSize: hiddenSize) != nil
    }

    /// A whole step of one sequence, by `blockCount` blocks that all run at once: no more than multiprocessors.
    func decodeStep(
        _ a: tandem_gpu_decode, headDimension: Int, form: CompressionForm, blockCount: Int, on stream: Stream
    ) throws(CUDAError) {
        try launch(
            a, decodeStepKernels[form]!.kernel(headDimension: headDimension, hiddenSize: Int(a.hidden))!,
            blockCount: blockCount, on: stream)
    }

    /// The same of one rank's part of a model.
    func decodeStep(
        _ a: tandem_gpu_decode_rank, headDimension: Int, blockCount: Int, on stream: Stream
    ) throws(CUDAError) {
        try launch(
            a, rankStepKernels!.kernel(headDimension: headDimension, hiddenSize: Int(a.step.hidden))!,
            blockCount: blockCount, on: stream)
    }

    private func launch<Arguments: BitwiseCopyable>(
        _ a: Arguments, _ kernel: KernelFunction, blockCount: Int, on stream: Stream
    ) throws(CUDAError) {
        precondition(blockCount <= multiprocessorCount, "GPUKernels: \(blockCount) blocks")
        try stream.launch(
            kernel, grid: (blockCount, 1, 1), block: Int(TANDEM_GPU_DECODE_BLOCK),
            sharedByteCount: Int(TANDEM_GPU_DECODE_SHARED_BYTES), isProgrammatic: true, arguments: a)
    }

    /// residual = the sum of all ranks' parts, through each other's memory.
    func allReduce(_ a: tandem_gpu_all_reduce, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            allReduceKernel, grid: (divideUp(Int(a.count), 512), 1, 1), block: 256, isProgrammatic: true,
            arguments: a)
    }

    func sample(_ a: tandem_gpu_sample, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            sampleKernel, grid: (Int(a.rows), 1, 1), block: 1024, isProgrammatic: true, arguments: a)
    }

    /// Lets the stream wait until *flag is `value`, for `timeoutSeconds` at most.
    func wait(
        flag: UInt64, value: UInt32, failure: UInt64, timeoutSeconds: Double,
        limit: tandem_gpu_limit = .init(), on stream: Stream
    ) throws(CUDAError) {
        try stream.launch(
            waitKernel, grid: (1, 1, 1), block: 1,
            arguments: tandem_gpu_wait(
                flag: flag, failure: failure, value: value,
                timeout_nanoseconds: UInt64(timeoutSeconds * 1e9), limit: limit))
    }

    /// Sets *flag to `value` when everything in front has run, then *notice to `noticeValue`.
    func signal(
        flag: UInt64, value: UInt32, notice: UInt64 = 0, noticeValue: UInt32 = 0,
        limit: tandem_gpu_limit = .init(), on stream: Stream
    ) throws(CUDAError) {
        try stream.launch(
            signalKernel, grid: (1, 1, 1), block: 1,
            arguments: tandem_gpu_signal(
                flag: flag, notice: notice, value: value, notice_value: noticeValue, limit: limit))
    }

    /// Reads a range once, with as many blocks as run at the same time.
    func read(_ bytes: UInt64, byteCount: Int, digest: UInt64, on stream: Stream) throws(CUDAError) {
        try stream.launch(
            readKernel, grid: (multiprocessorCount * 4, 1, 1), block: 512,
            arguments: tandem_gpu_read(bytes: bytes, digest: digest, byte_count: UInt64(byteCount)))
    }

    /// The parts that the inputs are cut into, so that every multiprocessor has a block and no second round is
    /// nearly empty.
    func splitCount(outputTiles: Int, inputs: Int) -> Int {
        var best = 1
        var leastCost = Double.infinity
        for count in 1...Self.mostSplits where count == 1 || inputs / count >= 256 {
            let rounds = Double(divideUp(outputTiles * count, multiprocessorCount))
            // A block's share of the inputs, and what a round costs beside it.
            let cost = rounds / Double(count) + 0.004 * rounds
            if cost < leastCost {
                leastCost = cost
                best = count
            }
        }
        return best
    }

    static let mostSplits = 16
    /// Only pairs of blocks become clusters. Fours must find four free multiprocessors side by side, which the kernel
    /// in front leaves late: opt-1.3b, where they would be fours, took 1.26 ms a token before clusters and 1.40 with.
    static let clusterBlocks = 2
    static let mostNormalizedRows = 2
    static let mostNormalizedInputs = 12288
    private static let linearSumsByteCount = 65536
}

/// A kernel for each number of eight rows, and a plain one for sizes that do not come in 16 bytes.
private struct FewRowsKernels: Sendable {
    let byRowTiles: [KernelFunction]
    let anySize: KernelFunction

    init(_ module: Module, _ name: String) throws(CUDAError) {
        var kernels: [KernelFunction] = []
        for tiles in 1...4 { kernels.append(try module.function(named: "\(name)_\(tiles)")) }
        byRowTiles = kernels
        anySize = try module.function(named: "\(name)_any")
    }
}

/// The kernels of a whole decode step, of a model or of one rank's part, in the image for 9.0 alone.
private struct DecodeStepKernels: Sendable {
    private let of64, of128, of128Large: KernelFunction
    private let of80: KernelFunction?
    /// The largest hidden size of the kernels that have no larger sibling.
    private static let mostHidden = 4096

    init(_ module: Module, _ name: String, hasHeadsOf80: Bool = true) throws(CUDAError) {
        of64 = try module.function(named: "\(name)_64")
        of80 = hasHeadsOf80 ? try module.function(named: "\(name)_80") : nil
        of128 = try module.function(named: "\(name)_128")
        of128Large = try module.function(named: "\(name)_128_large")
        for kernel in [of64, of80, of128, of128Large].compactMap(\.self) {
            try kernel.setMaxDynamicSharedByteCount(Int(TANDEM_GPU_DECODE_SHARED_BYTES))
        }
    }

    func kernel(headDimension: Int, hiddenSize: Int) -> KernelFunction? {
        switch headDimension {
        case 64 where hiddenSize <= Self.mostHidden: of64
        case 80 where hiddenSize <= Self.mostHidden: of80
        case 128 where hiddenSize <= Self.mostHidden: of128
        case 128 where hiddenSize <= Int(TANDEM_GPU_DECODE_HIDDEN): of128Large
        default: nil
        }
    }
}

func divideUp(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }
