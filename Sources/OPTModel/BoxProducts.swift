import CUDA
import CUDAKernelImage

/// The products of decode steps of several sequences (`linear_boxes.cu`), for a model that lies in GPU memory whole:
/// its tensor maps, and how each product is cut.
///
/// What the kernels do not take goes through `linear` and `linear_transposed`: streamed pieces, norms behind their
/// blocks, projections of the embedding, older GPUs.
final class BoxProducts: @unchecked Sendable {  // read-only
    private let buffer: DeviceBuffer
    private let kernels: BoxKernels
    private let configuration: OPTConfiguration
    private let layers: [LayerMaps]
    private let logitsMap: Map
    private let normalizedMaps, attendedMaps, neuronMaps: [UInt64]
    private let outputSplits, fc2Splits: Int

    /// Weights [outputs, inputs]: where their map lies, and the outputs of a block.
    private struct Map {
        var address: UInt64
        var blockOutputs: Int
    }

    private struct LayerMaps {
        var qkv, fc1: Map
        var output, fc2: UInt64
    }

    /// nil where the kernels do not take the model, or not where it lies.
    init?(
        _ weights: GPUWeights, kernels: GPUKernels, scratch: borrowing GPUScratch, context: Context,
        stream: Stream
    ) throws(CUDAError) {
        let configuration = weights.configuration
        guard let boxes = kernels.boxes, Self.takes(weights) else { return nil }
        self.kernels = boxes
        self.configuration = configuration
        let hidden = configuration.hiddenSize
        let neurons = configuration.feedForwardSize
        let multiprocessorCount = kernels.multiprocessorCount
        outputSplits = BoxKernels.splitCount(
            inputs: hidden, outputs: hidden, multiprocessorCount: multiprocessorCount)
        fc2Splits = BoxKernels.splitCount(
            inputs: neurons, outputs: hidden, multiprocessorCount: multiprocessorCount)

        let rowTileCount = Int(TANDEM_GPU_FEW_ROWS) / 8
        let byteCount = MemoryLayout<TensorMap.Words>.size
        buffer = try DeviceBuffer(
            byteCount: (4 * configuration.layerCount + 1 + 3 * rowTileCount) * byteCount, context: context)
        let base = buffer.address
        var maps: [TensorMap.Words] = []
        func add(_ map: TensorMap) -> UInt64 {
            maps.append(map.words)
            return base + UInt64((maps.count - 1) * byteCount)
        }
        func linear(_ address: UInt64, outputs: Int) throws(CUDAError) -> Map {
            let blockOutputs = BoxKernels.blockOutputs(
                outputs: outputs, multiprocessorCount: multiprocessorCount)
            let map = try TensorMap(
                boxesOf: blockOutputs, at: address, outputs: outputs, inputs: hidden, context: context)
            return Map(address: add(map), blockOutputs: blockOutputs)
        }
        func transposed(_ address: UInt64, inputs: Int) throws(CUDAError) -> UInt64 {
            add(try TensorMap(transposedBoxesAt: address, inputs: inputs, outputs: hidden, context: context))
        }
        func rows(_ address: UInt64, inputs: Int) throws(CUDAError) -> [UInt64] {
            var addresses: [UInt64] = []
            for tiles in 1...rowTileCount {
                addresses.append(
                    add(
                        try TensorMap(
                            rowsAt: address, rows: Int(TANDEM_GPU_FEW_ROWS), inputs: inputs, stride: inputs,
                            rowTiles: tiles, context: context)))
            }
            return addresses
        }
        var layers: [LayerMaps] = []
        for layer in weights.layers {
            let attention = layer.attention[0]
            let mlp = layer.mlp[0]
            layers.append(
                LayerMaps(
                    qkv: try linear(attention.qkv, outputs: 3 * hidden),
                    fc1: try linear(mlp.fc1, outputs: neurons),
                    output: try transposed(attention.output, inputs: hidden),
                    fc2: try transposed(mlp.fc2, inputs: neurons)))
        }
        self.layers = layers
        logitsMap = try linear(weights.logits[0].table, outputs: configuration.vocabularySize)
        normalizedMaps = try rows(scratch.normalized, inputs: hidden)
        attendedMaps = try rows(scratch.attended, inputs: hidden)
        neuronMaps = try rows(scratch.neurons, inputs: neurons)
        try stream.uploadAndWait(maps, to: base)
    }

    /// qkv = normalized · Wᵀ + bias.
    func queriesKeysValues(layer: Int, bias: UInt64, to y: UInt64, rows: Int, on stream: Stream)
        throws(CUDAError)
    {
        let outputs = 3 * configuration.hiddenSize
        try linear(
            layers[layer].qkv, bias: bias, to: y, outputs: outputs, activation: 0, isFloat: false, rows: rows,
            on: stream)
    }

    /// neurons = activation(normalized · Wᵀ + bias).
    func fc1(layer: Int, bias: UInt64, to y: UInt64, rows: Int, on stream: Stream) throws(CUDAError) {
        try linear(
            layers[layer].fc1, bias: bias, to: y, outputs: configuration.feedForwardSize,
            activation: configuration.activation.gpuCode, isFloat: false, rows: rows, on: stream)
    }

    /// logits = normalized · Wᵀ, fp32.
    func logits(to y: UInt64, rows: Int, on stream: Stream) throws(CUDAError) {
        try linear(
            logitsMap, bias: 0, to: y, outputs: configuration.vocabularySize, activation: 0, isFloat: true,
            rows: rows, on: stream)
    }

    /// The parts of attended · W, for the layer norm that follows.
    ///
    /// - Returns: how many they are.
    func output(layer: Int, to parts: UInt64, rows: Int, on stream: Stream) throws(CUDAError) -> Int {
        try sum(
            layers[layer].output, x: attendedMaps, inputs: configuration.hiddenSize, splits: outputSplits,
            to: parts, rows: rows, on: stream)
    }

    /// The parts of neurons · W, for the layer norm that follows.
    ///
    /// - Returns: how many they are.
    func fc2(layer: Int, to parts: UInt64, rows: Int, on stream: Stream) throws(CUDAError) -> Int {
        try sum(
            layers[layer].fc2, x: neuronMaps, inputs: configuration.feedForwardSize, splits: fc2Splits,
            to: parts, rows: rows, on: stream)
    }

    /// residual += bias + the parts; normalized = its layer norm.
    func normalize(_ a: tandem_gpu_layer_norm_parts, rows: Int, on stream: Stream) throws(CUDAError) {
        try kernels.layerNorm(a, rowCount: rows, on: stream)
    }

    private func linear(
        _ map: Map, bias: UInt64, to y: UInt64, outputs: Int, activation: UInt32, isFloat: Bool, rows: Int,
        on stream: Stream
    ) throws(CUDAError) {
        try kernels.linear(
            tandem_gpu_linear_boxes(
                weights_map: map.address, x_map: normalizedMaps[divideUp(rows, 8) - 1], bias: bias, y: y,
                parts: 0, y_stride: UInt32(outputs), rows: UInt32(rows),
                inputs: UInt32(configuration.hiddenSize), outputs: UInt32(outputs), activation: activation,
                y_is_float: isFloat ? 1 : 0, split_count: 1), blockOutputs: map.blockOutputs, on: stream)
    }

    private func sum(
        _ map: UInt64, x: [UInt64], inputs: Int, splits: Int, to parts: UInt64, rows: Int, on stream: Stream
    ) throws(CUDAError) -> Int {
        try kernels.linearTransposed(
            tandem_gpu_linear_boxes(
                weights_map: map, x_map: x[divideUp(rows, 8) - 1], bias: 0, y: 0, parts: parts, y_stride: 0,
                rows: UInt32(rows), inputs: UInt32(inputs), outputs: UInt32(configuration.hiddenSize),
                activation: 0, y_is_float: 0, split_count: UInt32(splits)), on: stream)
        return splits
    }

    private static func takes(_ weights: GPUWeights) -> Bool {
        let configuration = weights.configuration
        return weights.isWholeOnGPU && configuration.normalizesBefore && configuration.hasFinalLayerNorm
            && configuration.quantization == nil && weights.projectIn == 0
            && configuration.hiddenSize % 8 == 0
            && configuration.hiddenSize <= 12288 && configuration.feedForwardSize % 8 == 0
    }
}

extension GPUWeights {
    /// Every layer is one piece, which lies in GPU memory, and so do the logits' rows.
    var isWholeOnGPU: Bool {
        layers.allSatisfy {
            $0.attention.map(\.source) == [.resident] && $0.mlp.map(\.source) == [.resident]
        } && logits.map(\.source) == [.resident] && fetcher == nil
    }
}

extension Stream {
    /// Copies elements to GPU memory and waits until they are there.
    func uploadAndWait<Element: BitwiseCopyable>(_ elements: [Element], to address: UInt64) throws(CUDAError)
    {
        let memory = UnsafeMutableBufferPointer<Element>.allocate(capacity: elements.count)
        defer { memory.deallocate() }
        _ = memory.initialize(from: elements)
        try upload(
            memory.baseAddress!, to: address, byteCount: elements.count * MemoryLayout<Element>.stride)
        try synchronize()
    }
}
