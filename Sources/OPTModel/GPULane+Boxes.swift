import CUDA
import CUDAKernelImage

/// A decode step of several sequences, where the model lies in GPU memory whole: the same operations as in
/// `GPULane+Pass.swift`, but the parts of a block's last product are added to the residual stream by the norm behind.
extension GPULane {
    func takesBoxes(_ pass: Pass, _ cache: GPUKVCache) -> Bool {
        boxProducts != nil && pass.isDecode && pass.hasFewRows
            && cache.heads.gpu.count == configuration.headCount
    }

    /// The layers and the logits.
    func enqueueInBoxes(
        _ boxes: BoxProducts, _ pass: Pass, _ cache: GPUKVCache, _ layout: StepBlock.Layout
    ) throws(CUDAError) {
        // What the block in front has left to be added: how many parts, and its bias.
        var partCount = 0
        var bias: UInt64 = 0
        for (index, layer) in weights.layers.enumerated() {
            try span("self-attention", layer: index) { () throws(CUDAError) in
                let piece = layer.attention[0]
                try normalize(layer.attentionNorm, adding: partCount, bias, boxes, pass)
                try boxes.queriesKeysValues(
                    layer: index, bias: piece.qkvBias, to: scratch.qkv, rows: pass.rowCount, on: stream)
                try attend(piece, .gpu, layer: index, pass, cache, layout)
                partCount = try boxes.output(
                    layer: index, to: scratch.partials, rows: pass.rowCount, on: stream)
                bias = layer.outputBias
            }
            try span("MLP", layer: index) { () throws(CUDAError) in
                try normalize(layer.mlpNorm, adding: partCount, bias, boxes, pass)
                try boxes.fc1(
                    layer: index, bias: layer.fc1Bias(of: layer.mlp[0]), to: scratch.neurons,
                    rows: pass.rowCount,
                    on: stream)
                partCount = try boxes.fc2(layer: index, to: scratch.partials, rows: pass.rowCount, on: stream)
                bias = layer.fc2Bias
            }
        }
        try span("logits") { () throws(CUDAError) in
            try normalize(
                weights.finalNorm, adding: partCount, bias, boxes, pass,
                rowIndices: scratch.step + UInt64(layout.logitsRows))
            try boxes.logits(to: scratch.logits, rows: pass.logitsCount, on: stream)
        }
    }

    private func normalize(
        _ norm: GPUNorm, adding partCount: Int, _ bias: UInt64, _ boxes: BoxProducts, _ pass: Pass,
        rowIndices: UInt64 = 0
    ) throws(CUDAError) {
        try boxes.normalize(
            tandem_gpu_layer_norm_parts(
                x: scratch.residual, parts: scratch.partials, parts_bias: bias, y: scratch.normalized,
                weight: norm.weight, bias: norm.bias, row_indices: rowIndices,
                hidden: UInt32(configuration.hiddenSize), part_count: UInt32(partCount),
                part_rows: UInt32(pass.rowCount), epsilon: OPTConfiguration.layerNormEpsilon),
            rows: pass.rowCount, on: stream)
    }
}
