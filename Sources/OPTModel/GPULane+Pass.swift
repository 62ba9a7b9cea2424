import CUDA
import CUDAKernelImage
import Placement

/// A step, kernel by kernel: embedding, the layers, logits, sampling.
extension GPULane {
    /// Puts a whole step into the stream, which may be capturing a graph.
    func enqueue(_ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout) throws(CUDAError) {
        try stream.upload(block.input, to: scratch.step, byteCount: layout.byteCount)
        try span("embedding") { () throws(CUDAError) in try embed(pass, layout) }
        if isWhole(pass, cache) {
            try span("decode step") { () throws(CUDAError) in
                try stepKernel!.enqueue(row: scratch.step + UInt64(layout.rows), kernels: kernels, on: stream)
            }
            try gatherLogits(pass)
            return try span("sampling") { () throws(CUDAError) in try sample(pass, layout) }
        }
        if let boxProducts, takesBoxes(pass, cache) {
            try enqueueInBoxes(boxProducts, pass, cache, layout)
            try span("sampling") { () throws(CUDAError) in try sample(pass, layout) }
            return
        }
        for (index, layer) in weights.layers.enumerated() {
            try span("self-attention", layer: index) { () throws(CUDAError) in
                try attention(layer, index, pass, cache, layout)
            }
            try span("MLP", layer: index) { () throws(CUDAError) in try mlp(layer, index, pass) }
        }
        if pass.logitsCount > 0 {
            try span("logits") { () throws(CUDAError) in try logits(pass, layout) }
            try span("sampling") { () throws(CUDAError) in try sample(pass, layout) }
        } else {
            // Every pass takes the blocks in the same order, so those of the logits are let go unused.
            for piece in weights.logits + weights.fetchedLogits { try skip(piece.source) }
        }
    }

    /// Whether all layers and the logits are one kernel: one sequence's step, all of it in GPU memory. What is recorded
    /// goes operation by operation, so that each is seen; but in a group, where it would have to on every rank.
    func isWhole(_ pass: Pass, _ cache: GPUKVCache) -> Bool {
        stepKernel != nil && (timeline == nil || group != nil) && pass.isDecode && pass.rowCount == 1
            && cache.heads.gpu.count == configuration.headCount
    }

    /// Records what `body` puts into the stream, where something is being recorded.
    func span(_ name: String, layer: Int? = nil, _ body: () throws(CUDAError) -> Void)
        throws(CUDAError)
    {
        guard let timeline else { return try body() }
        try timeline.record(.compute, name, layer: layer, on: stream, body)
    }

    private func embed(_ pass: Pass, _ layout: StepBlock.Layout) throws(CUDAError) {
        let isNarrow = weights.projectIn != 0
        try kernels.embed(
            tandem_gpu_embed(
                rows: scratch.step + UInt64(layout.rows), residual: scratch.sum,
                gathered: isNarrow ? scratch.narrow : 0, hidden: UInt32(configuration.hiddenSize),
                embedding: UInt32(configuration.embeddingSize)), rowCount: pass.rowCount, on: stream)
        if isNarrow {
            try multiplyMany(
                tandem_gpu_gemm(
                    x: scratch.narrow, weights: weights.projectIn, bias: 0, y: 0, residual: scratch.sum,
                    x_stride: UInt32(configuration.embeddingSize), y_stride: 0, rows: UInt32(pass.rowCount),
                    inputs: UInt32(configuration.embeddingSize), outputs: UInt32(configuration.hiddenSize),
                    activation: 0, transposed: 0))
        }
        try meet(0, pass)
    }

    // MARK: Blocks of a layer

    private func attention(
        _ layer: GPULayer, _ index: Int, _ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout
    ) throws(CUDAError) {
        let share = pass.isDecode ? cpuShare?.attention(layer: index) : nil
        let pieces = pass.isDecode ? layer.attention : layer.attention + layer.fetchedAttention
        let isFused = normalizesInLinear(pieceCount: pieces.count, pass) && share == nil
        if configuration.normalizesBefore {
            if !isFused { try normalize(layer.attentionNorm, pass) }
        } else if index == 0 {
            try round(pass)
        }
        try clearSum(pass)
        if let share { try publish(share, x: scratch.normalized, pass) }
        let hidden = configuration.hiddenSize
        let diskHeads = cache.heads.disk
        // What both lanes have used is let go when the processor has answered.
        let sharesSlot = share != nil && cpuShare!.heads.overlaps(diskHeads)
        let firstOnDisk = pieces.firstIndex { $0.heads.overlaps(diskHeads) }
        let lastOnDisk = pieces.lastIndex { $0.heads.overlaps(diskHeads) }
        for (number, piece) in pieces.enumerated() {
            try take(piece.source)
            let width = piece.heads.count * configuration.headDimension
            try multiply(
                x: scratch.normalized, inputs: hidden, piece.qkv, bias: piece.qkvBias, to: scratch.qkv,
                outputs: 3 * width, activation: 0, isResident: piece.source == .resident,
                norm: isFused ? layer.attentionNorm : nil, pass)
            let exchange = pass.isDecode ? cpuAttention?.exchange(layer: index, piece: number) : nil
            if let exchange { try publish(exchange, of: piece, pass) }
            try attend(piece, .gpu, layer: index, pass, cache, layout)
            if exchange == nil { try attend(piece, .cpu, layer: index, pass, cache, layout) }
            if number == firstOnDisk { try takeCache(layer: index, cache) }
            try attend(piece, .disk, layer: index, pass, cache, layout)
            if number == lastOnDisk && !sharesSlot { try releaseCache(layer: index, cache) }
            if let exchange { try take(exchange, of: piece, pass) }
            try accumulate(
                x: scratch.attended, inputs: width, piece.output, configuration.outputForm,
                bias: number == 0 ? layer.outputBias : 0,
                isResident: piece.source == .resident, pass)
            try release(piece.source)
        }
        if let share { try join(share, onto: scratch.sum, stride: hidden, adds: true, pass) }
        if sharesSlot { try releaseCache(layer: index, cache) }
        try meet(2 * index + 1, pass)
        if !configuration.normalizesBefore { try normalize(layer.attentionNorm, pass, keeps: true) }
    }

    /// Attention of those of a piece's heads whose cache lies on `tier`. What lies on disk is in a slot in CPU memory
    /// then, and the slot takes the layer's place.
    func attend(
        _ piece: AttentionPiece, _ tier: Tier, layer: Int, _ pass: Pass, _ cache: GPUKVCache,
        _ layout: StepBlock.Layout
    ) throws(CUDAError) {
        let cached = cache.heads[tier]
        let heads = piece.heads.clamped(to: cached)
        if heads.isEmpty { return }
        let first = (heads.lowerBound - piece.heads.lowerBound) * configuration.headDimension * 2
        let part = AttentionPart(
            rows: scratch.step + UInt64(tier == .disk ? layout.diskRows : layout.rows),
            qkv: scratch.qkv + UInt64(first), out: scratch.attended + UInt64(first),
            heads: UInt32(heads.count), pieceHeads: UInt32(piece.heads.count),
            firstHead: UInt32(heads.lowerBound - cached.lowerBound), cacheHeads: UInt32(cached.count),
            layer: UInt32(tier == .disk ? cache.disk!.layout.slot(ofLayer: layer) : layer),
            onHost: tier == .gpu ? 0 : 1)
        try attend(part, pass, cache, layout)
    }

    /// Heads of a piece whose cache lies on one tier.
    private struct AttentionPart {
        var rows, qkv, out: UInt64
        var heads, pieceHeads, firstHead, cacheHeads, layer, onHost: UInt32
    }

    private func attend(
        _ part: AttentionPart, _ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout
    ) throws(CUDAError) {
        let headDimension = UInt32(configuration.headDimension)
        if pass.longestSegment == 1 {
            try kernels.attentionDecode(
                tandem_gpu_attention_decode(
                    rows: part.rows, qkv: part.qkv, out: part.out, partials: cache.partials,
                    counters: scratch.counters, row_count: UInt32(pass.rowCount), heads: part.heads,
                    head_dimension: headDimension, layer: part.layer, first_head: part.firstHead,
                    cache_heads: part.cacheHeads, piece_heads: part.pieceHeads, on_host: part.onHost,
                    cache_bits: UInt32(configuration.cacheBits), part_count: UInt32(pass.partCount),
                    scale: configuration.queryScale), on: stream)
            return
        }
        try kernels.storeKeysValues(
            tandem_gpu_store_keys_values(
                rows: part.rows, qkv: part.qkv, heads: part.heads, head_dimension: headDimension,
                layer: part.layer, first_head: part.firstHead, cache_heads: part.cacheHeads,
                piece_heads: part.pieceHeads, on_host: part.onHost,
                cache_bits: UInt32(configuration.cacheBits)), rowCount: pass.rowCount, on: stream)
        try kernels.attentionPrefill(
            tandem_gpu_attention_prefill(
                rows: part.rows, segments: scratch.step + UInt64(layout.segments), qkv: part.qkv,
                out: part.out, segment_count: UInt32(pass.segmentCount), heads: part.heads,
                head_dimension: headDimension,
                layer: part.layer, first_head: part.firstHead, cache_heads: part.cacheHeads,
                piece_heads: part.pieceHeads, on_host: part.onHost,
                cache_bits: UInt32(configuration.cacheBits), scale: configuration.queryScale),
            longestSegment: pass.longestSegment, on: stream)
    }

    private func mlp(_ layer: GPULayer, _ index: Int, _ pass: Pass) throws(CUDAError) {
        let share = pass.isDecode ? cpuShare?.mlp(layer: index) : nil
        let pieces = mlpPieces(layer, pass)
        let isFused = normalizesInLinear(pieceCount: pieces.count, pass) && share == nil
        if configuration.normalizesBefore && !isFused { try normalize(layer.mlpNorm, pass) }
        try clearSum(pass)
        if let share { try publish(share, x: scratch.normalized, pass) }
        for (number, piece) in pieces.enumerated() {
            let limit =
                piece.isDivided && readsBoundary(pass)
                ? tandem_gpu_limit(
                    end: scratch.step + UInt64(StepBlock.Layout.boundary),
                    first: UInt32(piece.neurons.lowerBound)) : .init()
            try take(piece.source, limit: limit)
            let isResident = piece.source == .resident
            try multiply(
                x: scratch.normalized, inputs: configuration.hiddenSize, piece.fc1,
                bias: layer.fc1Bias(of: piece),
                to: scratch.neurons, outputs: piece.neurons.count, activation: activation,
                isResident: isResident, norm: isFused ? layer.mlpNorm : nil, limit: limit, pass)
            try accumulate(
                x: scratch.neurons, inputs: piece.neurons.count, piece.fc2, configuration.fc2Form,
                bias: number == 0 ? layer.fc2Bias : 0,
                isResident: isResident, limit: limit, pass)
            try release(piece.source, limit: limit)
        }
        if let share {
            try join(share, onto: scratch.sum, stride: configuration.hiddenSize, adds: true, pass)
        }
        try meet(2 * index + 2, pass)
        if !configuration.normalizesBefore { try normalize(layer.mlpNorm, pass, keeps: true) }
    }

    /// A layer's pieces of the MLP in a pass. Divided pieces are cut at the boundary, unless the kernels do it.
    private func mlpPieces(_ layer: GPULayer, _ pass: Pass) -> [MLPPiece] {
        if readsBoundary(pass) { return layer.mlp }
        let streamed = layer.mlp.map { piece in
            var piece = piece
            if piece.isDivided { piece.neurons = piece.neurons.clamped(to: 0..<boundary) }
            return piece
        }
        let fetched = layer.fetchedMLP.map { piece in
            guard piece.isDivided, case .fetched(let index, _) = piece.source else { return piece }
            var piece = piece
            let first = max(piece.neurons.lowerBound, min(boundary, piece.neurons.upperBound))
            let skipped = first - piece.neurons.lowerBound
            piece.neurons = first..<piece.neurons.upperBound
            piece.fc1 += UInt64(configuration.fc1Form.byteCount(skipped))
            piece.fc2 += UInt64(configuration.fc2Form.byteCount(skipped))
            piece.source = .fetched(index, skipping: skipped)
            return piece
        }
        return (pass.isDecode ? streamed : streamed + fetched).filter { !$0.neurons.isEmpty }
    }

    /// Whether a pass's kernels take the boundary from memory: those of a graph, which serves more steps than one. Those for
    /// many rows cannot.
    func readsBoundary(_ pass: Pass) -> Bool {
        weights.boundary != nil && pass.isDecode && pass.hasFewRows
    }

    // MARK: Behind the last layer

    private func logits(_ pass: Pass, _ layout: StepBlock.Layout) throws(CUDAError) {
        let count = Pass(logitsOf: pass)
        let indices = scratch.step + UInt64(layout.logitsRows)
        try kernels.layerNorm(
            norm(
                weights.finalNorm, normalizes: configuration.hasFinalLayerNorm, keeps: false,
                rowIndices: indices),
            rowCount: count.rowCount, on: stream)
        var x = scratch.normalized
        var inputs = configuration.hiddenSize
        if weights.projectOut != 0 {
            try multiply(
                x: x, inputs: inputs, weights.projectOut, bias: 0, to: scratch.narrow,
                outputs: configuration.embeddingSize, activation: 0, isResident: true, isOfLayer: false, count
            )
            x = scratch.narrow
            inputs = configuration.embeddingSize
        }
        let share = pass.isDecode ? cpuShare?.logits : nil
        if let share { try publish(share, x: x, width: inputs, count) }
        for piece in pass.isDecode ? weights.logits : weights.logits + weights.fetchedLogits {
            try take(piece.source)
            try multiplyToLogits(x: x, inputs: inputs, piece, count)
            try release(piece.source)
        }
        if let share {
            let columns = UInt64(cpuShare!.rows.lowerBound * 4)
            try join(
                share, onto: scratch.logits + columns, stride: logitsWidth, adds: false,
                count)
        }
        try gatherLogits(pass)
    }

    private func multiplyToLogits(x: UInt64, inputs: Int, _ piece: LogitsPiece, _ pass: Pass)
        throws(CUDAError)
    {
        for first in stride(from: 0, to: pass.rowCount, by: Int(TANDEM_GPU_FEW_ROWS)) {
            let rows = min(Int(TANDEM_GPU_FEW_ROWS), pass.rowCount - first)
            try kernels.linear(
                tandem_gpu_linear(
                    x: x + UInt64(first * inputs * 2), weights: piece.table, bias: 0,
                    y: scratch.logits + UInt64((first * logitsWidth + piece.rows.lowerBound) * 4),
                    x_stride: UInt32(inputs), y_stride: UInt32(logitsWidth), rows: UInt32(rows),
                    inputs: UInt32(inputs), outputs: UInt32(piece.rows.count), activation: 0, y_is_float: 1,
                    is_resident: piece.source == .resident ? 1 : 0, residual: 0, norm_weight: 0, norm_bias: 0,
                    epsilon: 0, limit: .init()), on: stream)
        }
    }

    private func sample(_ pass: Pass, _ layout: StepBlock.Layout) throws(CUDAError) {
        try kernels.sample(
            tandem_gpu_sample(
                logits: scratch.logits, choices: scratch.step + UInt64(layout.choices),
                tokens: block.tokensAddress, counter: scratch.counters,
                step: scratch.step + UInt64(StepBlock.Layout.stepNumber),
                sequence_number: block.finishedStepAddress, rows: UInt32(pass.logitsCount),
                vocabulary: UInt32(logitsWidth)), on: stream)
    }

    // MARK: Operations

    /// Whether a block's first product normalizes the residual stream itself. Where the block has several pieces, the
    /// first of them changes the residual stream before the others read it.
    private func normalizesInLinear(pieceCount: Int, _ pass: Pass) -> Bool {
        configuration.normalizesBefore && pieceCount == 1
            && kernels.canNormalize(rows: pass.rowCount, inputs: configuration.hiddenSize)
    }

    /// y = activation(x · Wᵀ + bias), W [outputs, inputs]; with `norm` x is the residual stream, normalized.
    ///
    /// - Parameter isOfLayer: the matrix is one of those that may be quantized.
    private func multiply(
        x: UInt64, inputs: Int, _ matrix: UInt64, bias: UInt64, to y: UInt64, outputs: Int,
        activation: UInt32,
        isResident: Bool, isOfLayer: Bool = true, norm: GPUNorm? = nil, limit: tandem_gpu_limit = .init(),
        _ pass: Pass
    ) throws(CUDAError) {
        if isOfLayer, configuration.quantization != nil {
            return try multiplyQuantized(
                QuantizedProduct(
                    x: x, tiles: matrix, bias: bias, inputs: inputs, outputs: outputs,
                    form: configuration.qkvForm),
                to: y, activation: activation, isResident: isResident, norm: norm, limit: limit, pass)
        }
        if pass.hasFewRows {
            try kernels.linear(
                tandem_gpu_linear(
                    x: x, weights: matrix, bias: bias, y: y, x_stride: UInt32(inputs),
                    y_stride: UInt32(outputs),
                    rows: UInt32(pass.rowCount), inputs: UInt32(inputs), outputs: UInt32(outputs),
                    activation: activation, y_is_float: 0, is_resident: isResident ? 1 : 0,
                    residual: norm == nil ? 0 : scratch.residual, norm_weight: norm?.weight ?? 0,
                    norm_bias: norm?.bias ?? 0, epsilon: OPTConfiguration.layerNormEpsilon, limit: limit),
                on: stream)
        } else {
            try multiplyMany(
                tandem_gpu_gemm(
                    x: x, weights: matrix, bias: bias, y: y, residual: 0, x_stride: UInt32(inputs),
                    y_stride: UInt32(outputs), rows: UInt32(pass.rowCount), inputs: UInt32(inputs),
                    outputs: UInt32(outputs), activation: activation, transposed: 0))
        }
    }

    /// sum += x · W + bias, W [inputs, hidden].
    private func accumulate(
        x: UInt64, inputs: Int, _ matrix: UInt64, _ form: MatrixForm, bias: UInt64, isResident: Bool,
        limit: tandem_gpu_limit = .init(), _ pass: Pass
    ) throws(CUDAError) {
        if configuration.quantization != nil {
            return try accumulateQuantized(
                QuantizedProduct(
                    x: x, tiles: matrix, bias: bias, inputs: inputs, outputs: configuration.hiddenSize,
                    form: form),
                isResident: isResident, limit: limit, pass)
        }
        let hidden = UInt32(configuration.hiddenSize)
        if pass.hasFewRows {
            try kernels.linearTransposed(
                tandem_gpu_linear_transposed(
                    x: x, weights: matrix, bias: bias, residual: scratch.sum, partials: scratch.partials,
                    counters: scratch.counters, x_stride: UInt32(inputs), rows: UInt32(pass.rowCount),
                    inputs: UInt32(inputs), outputs: hidden, split_count: 0, is_resident: isResident ? 1 : 0,
                    limit: limit), on: stream)
        } else {
            try multiplyMany(
                tandem_gpu_gemm(
                    x: x, weights: matrix, bias: bias, y: 0, residual: scratch.sum,
                    x_stride: UInt32(inputs), y_stride: 0, rows: UInt32(pass.rowCount),
                    inputs: UInt32(inputs),
                    outputs: hidden, activation: 0, transposed: 1))
        }
    }

    /// A product of many rows.
    private func multiplyMany(_ product: tandem_gpu_gemm) throws(CUDAError) {
        if let libraryProducts, try libraryProducts.multiply(product, on: stream) { return }
        try kernels.gemm(product, on: stream)
    }

    /// The block's input: the residual stream normalized, in fp16; with `keeps` the residual stream becomes it too.
    private func normalize(_ norm: GPUNorm, _ pass: Pass, keeps: Bool = false) throws(CUDAError) {
        try kernels.layerNorm(
            self.norm(norm, normalizes: true, keeps: keeps, rowIndices: 0), rowCount: pass.rowCount,
            on: stream)
    }

    /// The residual stream in fp16, for the first block of a model that normalizes behind its blocks.
    private func round(_ pass: Pass) throws(CUDAError) {
        try kernels.layerNorm(
            norm(GPUNorm(weight: 0, bias: 0), normalizes: false, keeps: false, rowIndices: 0),
            rowCount: pass.rowCount, on: stream)
    }

    private func norm(_ norm: GPUNorm, normalizes: Bool, keeps: Bool, rowIndices: UInt64)
        -> tandem_gpu_layer_norm
    {
        tandem_gpu_layer_norm(
            x: scratch.residual, y: scratch.normalized, weight: norm.weight, bias: norm.bias,
            row_indices: rowIndices, hidden: UInt32(configuration.hiddenSize), normalize: normalizes ? 1 : 0,
            keep: keeps ? 1 : 0, epsilon: OPTConfiguration.layerNormEpsilon)
    }

    private var activation: UInt32 { configuration.activation.gpuCode }
}
