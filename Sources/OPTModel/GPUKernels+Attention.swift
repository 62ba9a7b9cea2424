import CUDA
import CUDAKernelImage
import TensorCore

/// Attention and its cache, for a cache in fp16 or in 4 bits. The constants are those of `attention_*.cu` and
/// `store_keys_values.cu`.
struct AttentionKernels: Sendable {
    fileprivate let store, decode, prefill: HeadDimensionKernels
    /// Of many rows, in the image for 9.0 alone.
    fileprivate let rows: HeadDimensionKernels?
    private let cacheBits: Int

    init(_ module: Module, cacheBits: Int, hasCopyEngine: Bool) throws(CUDAError) {
        self.cacheBits = cacheBits
        let form = cacheBits == 4 ? "_4_bits" : ""
        store =
            cacheBits == 4
            ? HeadDimensionKernels(try module.function(named: "tandem_kernel_store_keys_values" + form))
            : try HeadDimensionKernels(module, "tandem_kernel_store_keys_values")
        decode = try HeadDimensionKernels(module, "tandem_kernel_attention_decode" + form)
        prefill = try HeadDimensionKernels(module, "tandem_kernel_attention_prefill" + form)
        rows =
            hasCopyEngine
            ? try HeadDimensionKernels(module, "tandem_kernel_attention_rows" + form, hasOthers: false) : nil
        for dimension in HeadDimensionKernels.dimensions {
            try prefill[dimension]!.setMaxDynamicSharedByteCount(
                prefillSharedByteCount(headDimension: dimension))
            try rows?[dimension]!.setMaxDynamicSharedByteCount(
                Int(TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES))
        }
    }

    /// Tiles of 64 keys and of 64 values, two of each in the cache's form, and in 4 bits one of each in fp16 beside them;
    /// none in the kernel of other dimensions.
    fileprivate func prefillSharedByteCount(headDimension: Int) -> Int {
        if !HeadDimensionKernels.dimensions.contains(headDimension) { return 0 }
        let tiles = 2 * 64 * (2 * headDimension + 16)
        return cacheBits == 4
            ? tiles + 4 * 64 * Quantization.cachePositionByteCount(headDimension: headDimension) : 2 * tiles
    }
}

extension GPUKernels {
    private func attention(cacheBits: UInt32, headDimension: UInt32) -> AttentionKernels {
        precondition(
            cacheBits == 16 || cacheBits == 4 && headDimension % 16 == 0,
            "GPUKernels: a cache in \(cacheBits) bits, head dimension \(headDimension)")
        return cacheBits == 4 ? attentionOf4Bits : attention
    }

    func storeKeysValues(_ a: tandem_gpu_store_keys_values, rowCount: Int, on stream: Stream)
        throws(CUDAError)
    {
        let kernels = attention(cacheBits: a.cache_bits, headDimension: a.head_dimension)
        try stream.launch(
            kernels.store[Int(a.head_dimension)]!, grid: (rowCount, 1, 1), block: 256, arguments: a)
    }

    func attentionDecode(_ a: tandem_gpu_attention_decode, on stream: Stream) throws(CUDAError) {
        // Where rows and heads keep the multiprocessors busy, a sequence need not be cut.
        if a.on_host == 0 && Int(a.heads * a.row_count) >= 3 * multiprocessorCount,
            try attentionRows(a, on: stream)
        {
            return
        }
        let kernels = attention(cacheBits: a.cache_bits, headDimension: a.head_dimension)
        try stream.launch(
            kernels.decode[Int(a.head_dimension)]!,
            grid: (Int(a.part_count), Int(a.heads), Int(a.row_count)), block: 256, isProgrammatic: true,
            arguments: a)
    }

    /// `attentionDecode` without cutting any sequence.
    ///
    /// - Returns: false where there is no kernel for it, and nothing was done.
    func attentionRows(_ a: tandem_gpu_attention_decode, on stream: Stream) throws(CUDAError) -> Bool {
        let kernels = attention(cacheBits: a.cache_bits, headDimension: a.head_dimension)
        guard let kernel = kernels.rows?[Int(a.head_dimension)] else { return false }
        try stream.launch(
            kernel, grid: (min(Int(a.heads * a.row_count), 3 * multiprocessorCount), 1, 1),
            block: Int(TANDEM_GPU_ATTENTION_ROWS_BLOCK),
            sharedByteCount: Int(TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES), isProgrammatic: true, arguments: a)
        return true
    }

    func attentionPrefill(
        _ a: tandem_gpu_attention_prefill, longestSegment: Int, on stream: Stream
    ) throws(CUDAError) {
        let kernels = attention(cacheBits: a.cache_bits, headDimension: a.head_dimension)
        let queryTiles = divideUp(longestSegment, Int(TANDEM_GPU_ATTENTION_QUERIES))
        try stream.launch(
            kernels.prefill[Int(a.head_dimension)]!,
            grid: (queryTiles, Int(a.heads), Int(a.segment_count)), block: 128,
            sharedByteCount: kernels.prefillSharedByteCount(headDimension: Int(a.head_dimension)),
            isProgrammatic: true, arguments: a)
    }
}
