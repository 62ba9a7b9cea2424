import CPUKernels
import Checkpoints
import HostRuntime

/// A model's weights in CPU memory: the tables at its ends and a shard of every layer.
public final class OPTWeights: Sendable {
    public let configuration: OPTConfiguration
    public let embedding: EmbeddingShard
    public let layers: [LayerShard]
    /// What the weights take in memory.
    public let byteCount: Int

    /// Reads the weights from `source` straight to their final place, all threads of `pool` at once.
    ///
    /// - Parameter progress: called now and then, on any thread, with the bytes that are done and the total.
    public init(
        _ configuration: OPTConfiguration, from source: some TensorSource, pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>, progress: @escaping @Sendable (Int, Int) -> Void
    ) throws(ModelError) {
        let tensors = OPTTensors(configuration: configuration)
        do {
            embedding = try EmbeddingShard(tensors)
            var layers: [LayerShard] = []
            for layer in 0..<configuration.layerCount {
                layers.append(
                    try LayerShard(
                        tensors, layer: layer, heads: 0..<configuration.headCount,
                        neurons: 0..<configuration.feedForwardSize))
            }
            self.layers = layers
        } catch {
            throw ModelError(
                .outOfMemory, "\(configuration.name) does not fit into memory: \(error); use a smaller model")
        }
        self.configuration = configuration
        byteCount = embedding.buffer.byteCount + layers.reduce(0) { $0 + $1.buffer.byteCount }
        let loader = WeightLoader(source: source, kernels: kernels, progress: progress)
        loader.add(embedding.slots, to: embedding.buffer)
        for layer in layers { loader.add(layer.slots, to: layer.buffer) }
        do {
            try loader.load(on: pool)
        } catch {
            throw ModelError(.checkpoint, file: error.file, error.description)
        }
    }

    /// The bytes that a whole model's weights take in CPU memory.
    public static func byteCount(_ configuration: OPTConfiguration) -> Int {
        let tensors = OPTTensors(configuration: configuration)
        let layer = LayerShard.byteCount(
            tensors, layer: 0, heads: 0..<configuration.headCount, neurons: 0..<configuration.feedForwardSize)
        return EmbeddingShard.byteCount(tensors) + configuration.layerCount * layer
    }

    /// The memory that holds the weights.
    public var regions: [UnsafeRawBufferPointer] {
        [UnsafeRawBufferPointer(start: embedding.buffer.baseAddress, count: embedding.buffer.byteCount)]
            + layers.map { UnsafeRawBufferPointer(start: $0.buffer.baseAddress, count: $0.buffer.byteCount) }
    }
}
