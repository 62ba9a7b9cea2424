import CUDA
import CUDAKernelImage
import Placement

/// A decode step of one sequence in one kernel (`decode.cu`), for a model that lies in GPU memory whole, or one rank's part
/// of it: its tensor maps, and the memory through which its blocks meet.
///
/// What the kernel does not take goes operation by operation: several rows, streamed pieces, a cache in CPU memory,
/// norms behind their blocks, projections of the embedding, older GPUs.
final class DecodeStepKernel: @unchecked Sendable {  // arguments are addresses
    private let buffer: DeviceBuffer
    private let arguments: tandem_gpu_decode
    /// Where there are other ranks; its `step` is not filled in.
    private let rankArguments: tandem_gpu_decode_rank?
    private let headDimension: Int
    private let form: CompressionForm
    private let blockCount: Int

    /// nil where the kernel does not take the model, or not where it lies.
    ///
    /// - Parameter ranks: those among which the model is divided; nil where the weights are all of it.
    init?(
        _ weights: GPUWeights, ranks: StepRanks? = nil, kernels: GPUKernels, scratch: borrowing GPUScratch,
        context: Context, stream: Stream
    ) throws(CUDAError) {
        let configuration = weights.configuration
        let hidden = configuration.hiddenSize
        let neurons = configuration.feedForwardSize
        let width = configuration.attentionWidth
        guard Self.takes(configuration), weights.isWholeOnGPU, ranks != nil || width == hidden,
            ranks == nil || configuration.compressionForm == .fp16,
            kernels.canDecodeStep(
                headDimension: configuration.headDimension, hiddenSize: hidden,
                form: configuration.compressionForm)
        else { return nil }
        headDimension = configuration.headDimension
        form = configuration.compressionForm
        let cut = StepCut(configuration, blockCount: ranks?.blockCount ?? kernels.multiprocessorCount)
        blockCount = cut.blockCount
        let output = cut.output
        let fc2 = cut.fc2
        // What attention takes at once is never cut further: of few heads there would be more parts than it is worth.
        let mostParts = ranks == nil ? blockCount : divideUp(configuration.maximumPositions, 128)
        let parts = max(1, min(blockCount / configuration.headCount, mostParts))
        var set = DeviceLayout()
        _ = set.add(3 * width * 2)
        let attended = set.add(configuration.headCount * parts * configuration.headDimension * 4)
        let attendedWeights = set.add(configuration.headCount * parts * 8)
        let outputSums = set.add(ranks == nil ? output.slotCount * hidden * 4 : 0)
        let neuronWords = set.add(neurons * 2)
        let fc2Sums = set.add(ranks == nil ? fc2.slotCount * hidden * 4 : 0)
        let exchangeByteCount = Int(TANDEM_GPU_DECODE_SETS) * set.byteCount

        var layout = DeviceLayout()
        let layers = layout.add(configuration.layerCount * MemoryLayout<tandem_gpu_decode_layer>.stride)
        let logitsMap = layout.add(MemoryLayout<TensorMap.Words>.size)
        let exchange = layout.add(exchangeByteCount)
        let counters = layout.add(8)
        let slots = ranks.map { PeerSlots($0.shards, blockCount: $0.blockCount) }
        let tiles = ranks.map { slots!.table(rank: $0.rank) } ?? []
        let tileTable = layout.add(tiles.count * MemoryLayout<tandem_gpu_decode_tile>.stride)
        buffer = try DeviceBuffer(byteCount: layout.byteCount, context: context)
        let base = buffer.address

        let table = try Self.layerTable(weights, context: context)
        let logits = try TensorMap(
            ofOutputsBy: hidden, at: weights.logits[0].table, outputs: configuration.vocabularySize,
            context: context)
        try stream.uploadAndWait(table, to: base + layers)
        try stream.uploadAndWait([logits.words], to: base + logitsMap)
        try stream.fill(base + exchange, with: 0xff, byteCount: exchangeByteCount)
        try stream.fill(base + counters, byteCount: 8)
        if !tiles.isEmpty { try stream.uploadAndWait(tiles, to: base + tileTable) }

        arguments = tandem_gpu_decode(
            layers: base + layers, logits_map: base + logitsMap, row: 0, residual: scratch.residual,
            logits: scratch.logits, final_norm_weight: weights.finalNorm.weight,
            final_norm_bias: weights.finalNorm.bias, exchange: base + exchange, counters: base + counters,
            layer_count: UInt32(configuration.layerCount), hidden: UInt32(hidden),
            heads: UInt32(configuration.headCount), neuron_count: UInt32(neurons),
            vocabulary: UInt32(configuration.vocabularySize), activation: configuration.activation.gpuCode,
            attention_parts: UInt32(parts), output_participants: UInt32(output.participants),
            fc2_participants: UInt32(fc2.participants), attended: UInt32(attended),
            attended_weights: UInt32(attendedWeights), output_sums: UInt32(outputSums),
            neurons: UInt32(neuronWords), fc2_sums: UInt32(fc2Sums), set_byte_count: UInt32(set.byteCount),
            pace: Self.pace(context.device), scale: configuration.queryScale,
            epsilon: OPTConfiguration.layerNormEpsilon)
        rankArguments = ranks.map { ranks in
            precondition(
                ranks.shards[ranks.rank].configuration == configuration
                    && ranks.peers.count <= Int(TANDEM_GPU_DECODE_RANKS)
                    && ranks.peers.allSatisfy { $0 % 16 == 0 },
                "DecodeStepKernel: these are not the weights, or not the memory, of rank \(ranks.rank)")
            var a = tandem_gpu_decode_rank()
            withUnsafeMutableBytes(of: &a.peers) { to in
                ranks.peers.withUnsafeBytes { to.copyBytes(from: $0) }
            }
            a.tiles = base + tileTable
            a.rank = UInt32(ranks.rank)
            a.rank_count = UInt32(ranks.peers.count)
            a.peer_fc2_sums = UInt32(slots!.fc2Offset)
            a.peer_set_byte_count = UInt32(slots!.byteCount)
            return a
        }
    }

    /// From the residual stream in the scratch to the logits there. `row` is the address of a `tandem_gpu_row`.
    func enqueue(row: UInt64, kernels: GPUKernels, on stream: Stream) throws(CUDAError) {
        var arguments = arguments
        arguments.row = row
        guard var rankArguments else {
            return try kernels.decodeStep(
                arguments, headDimension: headDimension, form: form, blockCount: blockCount,
                on: stream)
        }
        rankArguments.step = arguments
        try kernels.decodeStep(
            rankArguments, headDimension: headDimension, blockCount: blockCount, on: stream)
    }

    /// Whether there may be a kernel for a model, or a rank's part of one, of this architecture and these sizes.
    static func takes(_ configuration: OPTConfiguration) -> Bool {
        configuration.normalizesBefore && configuration.hasFinalLayerNorm
            && !configuration.hasEmbeddingProjections
            && configuration.layerCount <= Int(TANDEM_GPU_DECODE_LAYERS) && configuration.hiddenSize % 64 == 0
            && configuration.headCount > 0 && configuration.vocabularySize > 0
            && configuration.feedForwardSize > 0 && configuration.feedForwardSize % 8 == 0
            && (configuration.compressionForm == .fp16 || configuration.headDimension % 64 == 0)
    }

    /// 0.92 of the cycles in which the memory would bring every multiprocessor a stage at its peak. Copies that are asked
    /// for faster stand in a queue, in which some blocks wait for the stages that others need later: opt-6.7b takes
    /// 3.43 ms with 800 cycles, 3.62 without, 3.53 with 850 (H200).
    private static func pace(_ device: Device) -> UInt32 {
        if device.peakMemoryBandwidth == 0 { return 0 }
        let byteCount = Double(TANDEM_GPU_DECODE_STAGE_BYTES) * Double(device.multiprocessorCount)
        return UInt32(0.92 * byteCount / device.peakMemoryBandwidth * device.clockRate)
    }

    /// Of quantized weights the kernel copies runs of tiles, for which it needs their address alone.
    private static func words(_ tiles: UInt64) -> TensorMap.Words {
        var words: TensorMap.Words = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        words.0 = tiles
        return words
    }

    private static func layerTable(
        _ weights: GPUWeights, context: Context
    ) throws(CUDAError) -> [tandem_gpu_decode_layer] {
        let hidden = weights.configuration.hiddenSize
        let neurons = weights.configuration.feedForwardSize
        let width = weights.configuration.attentionWidth
        var table: [tandem_gpu_decode_layer] = []
        for layer in weights.layers {
            let attention = layer.attention[0]
            let mlp = layer.mlp[0]
            let sources =
                weights.configuration.quantization == nil
                ? try [
                    TensorMap(ofOutputsBy: hidden, at: attention.qkv, outputs: 3 * width, context: context),
                    TensorMap(ofInputs: width, by: hidden, at: attention.output, context: context),
                    TensorMap(ofOutputsBy: hidden, at: mlp.fc1, outputs: neurons, context: context),
                    TensorMap(ofInputs: neurons, by: hidden, at: mlp.fc2, context: context),
                ].map(\.words)
                : [attention.qkv, attention.output, mlp.fc1, mlp.fc2].map(Self.words)
            table.append(
                tandem_gpu_decode_layer(
                    qkv: sources[0], output: sources[1], fc1: sources[2], fc2: sources[3],
                    vectors: tandem_gpu_decode_vectors(
                        attention_norm_weight: layer.attentionNorm.weight,
                        attention_norm_bias: layer.attentionNorm.bias, qkv_bias: attention.qkvBias,
                        output_bias: layer.outputBias, mlp_norm_weight: layer.mlpNorm.weight,
                        mlp_norm_bias: layer.mlpNorm.bias, fc1_bias: layer.fc1Bias, fc2_bias: layer.fc2Bias)))
        }
        return table
    }
}

/// How one GPU's blocks divide the products of a step.
struct StepCut {
    let blockCount: Int
    let output, fc2: DecodeCut

    /// - Parameter blockCount: the most there may be.
    init(_ configuration: OPTConfiguration, blockCount: Int) {
        let hidden = configuration.hiddenSize
        let neurons = configuration.feedForwardSize
        let width = configuration.attentionWidth
        // Every block has some of the queries, keys and values, and of the neurons: that is how blocks know how far
        // the others are.
        self.blockCount = min(blockCount, divideUp(3 * width, 16), divideUp(neurons, 16))
        output = DecodeCut(inputs: width, outputs: hidden, blockCount: self.blockCount)
        fc2 = DecodeCut(inputs: neurons, outputs: hidden, blockCount: self.blockCount)
    }
}

/// How a product of W [inputs, outputs] is cut over blocks, as `decode.cu` has it: stages of 64 outputs × some inputs, all of
/// an output's one behind the other, dealt out evenly.
struct DecodeCut {
    let participants: Int
    /// Of 64 outputs each.
    let tileCount: Int
    /// Stages of a tile.
    private let depth: Int

    init(inputs: Int, outputs: Int, blockCount: Int) {
        depth = divideUp(inputs, Int(TANDEM_GPU_DECODE_STAGE_INPUTS))
        tileCount = divideUp(outputs, 64)
        let total = depth * tileCount
        let most = min(blockCount, total, (Int(TANDEM_GPU_DECODE_SLOTS) - 2) * tileCount)
        // A few blocks less, where all then have the same and no output has more parts than it must.
        participants = (most * 95 / 100...most).last { total % $0 == 0 } ?? most
    }

    /// The most blocks that have some of the same outputs.
    var slotCount: Int { (0..<tileCount).map(slotCount(ofTile:)).max()! }

    /// The blocks that have some of a tile's outputs.
    func slotCount(ofTile tile: Int) -> Int { owner(tile * depth + depth - 1) - owner(tile * depth) + 1 }

    private func owner(_ stage: Int) -> Int { ((stage + 1) * participants - 1) / (depth * tileCount) }
}

extension TensorMap {
    /// Of W [outputs, inputs], in boxes of 16 outputs × 512 inputs.
    fileprivate init(ofOutputsBy inputs: Int, at address: UInt64, outputs: Int, context: Context)
        throws(CUDAError)
    {
        try self.init(
            ofHalvesAt: address, sizes: [64, outputs, inputs / 64], strides: [2 * inputs, 128],
            box: [64, 16, 8],
            context: context)
    }

    /// Of W [inputs, outputs], in boxes of 128 inputs × 64 outputs.
    fileprivate init(ofInputs inputs: Int, by outputs: Int, at address: UInt64, context: Context)
        throws(CUDAError)
    {
        try self.init(
            ofHalvesAt: address, sizes: [outputs, inputs], strides: [2 * outputs], box: [64, 128],
            context: context)
    }
}

extension OPTConfiguration.Activation {
    /// As the kernels have it.
    var gpuCode: UInt32 {
        switch self {
        case .relu: UInt32(TANDEM_GPU_RELU)
        case .gelu: UInt32(TANDEM_GPU_GELU)
        }
    }
}
