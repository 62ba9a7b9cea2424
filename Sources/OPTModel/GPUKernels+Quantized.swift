import CUDA
import CUDAKernelImage

/// The products of weights in 4 and 8 bits. The constants are those of `linear_quantized.cu` and `gemm_quantized.cu`.
struct QuantizedKernels: Sendable {
    fileprivate let fourBits, eightBits: Products

    fileprivate static let sumsByteCount = 65536

    /// Those of one number of bits.
    fileprivate struct Products: Sendable {
        /// Of up to 8, 16 and 32 rows.
        let byOutputs, byInputs: [KernelFunction]
        let normalized: KernelFunction
        /// In the image for 9.0 alone.
        let cluster: KernelFunction?
        let large, small: KernelFunction

        init(_ module: Module, bits: Int, hasClusters: Bool) throws(CUDAError) {
            let linear = "tandem_kernel_linear_quantized_\(bits)"
            var byOutputs: [KernelFunction] = []
            var byInputs: [KernelFunction] = []
            for tiles in [1, 2, 4] {
                byOutputs.append(try module.function(named: "\(linear)_outputs_\(tiles)"))
                byInputs.append(try module.function(named: "\(linear)_inputs_\(tiles)"))
            }
            self.byOutputs = byOutputs
            self.byInputs = byInputs
            normalized = try module.function(named: "\(linear)_outputs_normalized")
            cluster = hasClusters ? try module.function(named: "\(linear)_inputs_cluster") : nil
            for kernel in byOutputs + byInputs { try kernel.setMaxDynamicSharedByteCount(sumsByteCount) }
            try cluster?.setMaxDynamicSharedByteCount(sumsByteCount)
            try normalized.setMaxDynamicSharedByteCount(
                sumsByteCount + GPUKernels.mostNormalizedRows * GPUKernels.mostNormalizedInputs * 2)
            let gemm = "tandem_kernel_gemm_quantized_\(bits)"
            large = try module.function(named: "\(gemm)_large")
            small = try module.function(named: "\(gemm)_small")
            try large.setMaxDynamicSharedByteCount(largeSharedByteCount)
        }
    }

    fileprivate static let largeTile = 128
    fileprivate static let smallTile = 64
    fileprivate static let largeSharedByteCount = 49152
    fileprivate static let smallSharedByteCount = 32768

    init(_ module: Module, hasClusters: Bool) throws(CUDAError) {
        fourBits = try Products(module, bits: 4, hasClusters: hasClusters)
        eightBits = try Products(module, bits: 8, hasClusters: hasClusters)
    }

    fileprivate func products(_ bits: UInt32) -> Products {
        precondition(bits == 4 || bits == 8, "GPUKernels: \(bits) bits")
        return bits == 4 ? fourBits : eightBits
    }
}

extension GPUKernels {
    /// x · Wᵀ for few rows and weights in tiles; by outputs with `residual` among the arguments x is its layer norm, by
    /// inputs the residual is added to. `split_count` of the arguments is chosen here.
    func linearQuantized(_ a: tandem_gpu_linear_quantized, on stream: Stream) throws(CUDAError) {
        if a.outputs == 0 || a.inputs == 0 { return }
        checkQuantized(a.inputs, a.outputs, a.period, a.x_stride)
        let kernels = quantized.products(a.bits)
        var a = a
        a.period = wholePeriod(a.period)
        let kind = a.rows <= 8 ? 0 : a.rows <= 16 ? 1 : 2
        if a.by_inputs != 0 {
            let columns = divideUp(Int(a.outputs), 64)
            let splits = splitCount(outputTiles: columns, inputs: Int(a.inputs))
            a.split_count = UInt32(splits)
            var kernel = kernels.byInputs[kind]
            var clusterRows = 1
            if let cluster = kernels.cluster, kind == 0 && splits == Self.clusterBlocks {
                (kernel, clusterRows) = (cluster, splits)
            }
            try stream.launch(
                kernel, grid: (columns, splits, 1), block: kind == 0 ? 512 : 256,
                sharedByteCount: QuantizedKernels.sumsByteCount, isProgrammatic: a.is_resident != 0,
                clusterRows: clusterRows, arguments: a)
            return
        }
        a.split_count = 1
        let isNormalized = a.residual != 0
        precondition(
            !isNormalized || canNormalize(rows: Int(a.rows), inputs: Int(a.inputs)),
            "GPUKernels: \(a.rows) rows of \(a.inputs)")
        try stream.launch(
            isNormalized ? kernels.normalized : kernels.byOutputs[kind],
            grid: (min(Int(a.outputs) / 16, multiprocessorCount), 1, 1), block: kind == 0 ? 768 : 256,
            sharedByteCount: QuantizedKernels.sumsByteCount
                + (isNormalized ? Int(a.rows) * Int(a.inputs) * 2 : 0),
            isProgrammatic: a.is_resident != 0, arguments: a)
    }

    /// The same of many rows.
    func gemmQuantized(_ a: tandem_gpu_gemm_quantized, on stream: Stream) throws(CUDAError) {
        if a.outputs == 0 || a.inputs == 0 { return }
        checkQuantized(a.inputs, a.outputs, a.period, a.x_stride | a.y_stride)
        let kernels = quantized.products(a.bits)
        var a = a
        a.period = wholePeriod(a.period)
        let (rows, outputs) = (Int(a.rows), Int(a.outputs))
        let isSmall = GEMMKernels.isSmallBetter(
            rows: rows, outputs: outputs, multiprocessorCount: multiprocessorCount)
        let tile = isSmall ? QuantizedKernels.smallTile : QuantizedKernels.largeTile
        try stream.launch(
            isSmall ? kernels.small : kernels.large,
            grid: (divideUp(rows, tile), divideUp(outputs, tile), 1), block: 128,
            sharedByteCount: isSmall
                ? QuantizedKernels.smallSharedByteCount : QuantizedKernels.largeSharedByteCount,
            isProgrammatic: true, arguments: a)
    }

    private func checkQuantized(_ inputs: UInt32, _ outputs: UInt32, _ period: UInt32, _ stride: UInt32) {
        precondition(
            (inputs | outputs | period) % 16 == 0 && period > 0 && stride % 8 == 0,
            "GPUKernels: \(inputs) -> \(outputs) in periods of \(period), stride \(stride)")
    }

    /// Where groups never end within 64 inputs the period does not matter, and one of a group is the quickest to count.
    private func wholePeriod(_ period: UInt32) -> UInt32 { period % 64 == 0 ? 64 : period }
}
