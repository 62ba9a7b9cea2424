import TensorCore

/// The names and shapes of a checkpoint's tensors, as `modeling_opt.py` has them (without the prefix `model.`).
struct OPTTensors: Sendable {
    let configuration: OPTConfiguration

    var tokenEmbedding: TensorSpecification {
        matrix("embed_tokens.weight", configuration.vocabularySize, configuration.embeddingSize)
    }

    var positionEmbedding: TensorSpecification {
        matrix(
            "embed_positions.weight", configuration.maximumPositions + OPTConfiguration.positionOffset,
            configuration.hiddenSize)
    }

    var projectIn: TensorSpecification? {
        guard configuration.hasEmbeddingProjections else { return nil }
        return matrix("project_in.weight", configuration.hiddenSize, configuration.embeddingSize)
    }

    var projectOut: TensorSpecification? {
        guard configuration.hasEmbeddingProjections else { return nil }
        return matrix("project_out.weight", configuration.embeddingSize, configuration.hiddenSize)
    }

    func finalLayerNorm(_ part: Part) -> TensorSpecification? {
        guard configuration.hasFinalLayerNorm, configuration.hasAffineLayerNorms else { return nil }
        return vector("final_layer_norm.\(part)", configuration.hiddenSize)
    }

    enum Part: String, CustomStringConvertible {
        case weight, bias
        var description: String { rawValue }
    }

    enum Projection: String, CaseIterable {
        case query = "q_proj"
        case key = "k_proj"
        case value = "v_proj"
        case output = "out_proj"
    }

    func projectionWeight(_ projection: Projection, layer: Int) -> TensorSpecification {
        let name = "layers.\(layer).self_attn.\(projection.rawValue).weight"
        return projection == .output
            ? matrix(name, configuration.hiddenSize, configuration.attentionWidth)
            : matrix(name, configuration.attentionWidth, configuration.hiddenSize)
    }

    func projectionBias(_ projection: Projection, layer: Int) -> TensorSpecification? {
        guard configuration.hasBiases else { return nil }
        return vector(
            "layers.\(layer).self_attn.\(projection.rawValue).bias",
            projection == .output ? configuration.hiddenSize : configuration.attentionWidth)
    }

    func attentionLayerNorm(_ part: Part, layer: Int) -> TensorSpecification? {
        guard configuration.hasAffineLayerNorms else { return nil }
        return vector("layers.\(layer).self_attn_layer_norm.\(part)", configuration.hiddenSize)
    }

    func mlpLayerNorm(_ part: Part, layer: Int) -> TensorSpecification? {
        guard configuration.hasAffineLayerNorms else { return nil }
        return vector("layers.\(layer).final_layer_norm.\(part)", configuration.hiddenSize)
    }

    func fc1Weight(layer: Int) -> TensorSpecification {
        matrix("layers.\(layer).fc1.weight", configuration.feedForwardSize, configuration.hiddenSize)
    }

    func fc1Bias(layer: Int) -> TensorSpecification? {
        guard configuration.hasBiases else { return nil }
        return vector("layers.\(layer).fc1.bias", configuration.feedForwardSize)
    }

    func fc2Weight(layer: Int) -> TensorSpecification {
        matrix("layers.\(layer).fc2.weight", configuration.hiddenSize, configuration.feedForwardSize)
    }

    func fc2Bias(layer: Int) -> TensorSpecification? {
        guard configuration.hasBiases else { return nil }
        return vector("layers.\(layer).fc2.bias", configuration.hiddenSize)
    }

    private func matrix(_ name: String, _ rows: Int, _ columns: Int) -> TensorSpecification {
        TensorSpecification(name: "decoder." + name, shape: [rows, columns], scalarType: .float16)
    }

    private func vector(_ name: String, _ count: Int) -> TensorSpecification {
        TensorSpecification(name: "decoder." + name, shape: [count], scalarType: .float16)
    }
}

extension OPTConfiguration {
    /// Every tensor that a checkpoint of this architecture holds.
    public var tensorSpecifications: [TensorSpecification] {
        let tensors = OPTTensors(configuration: self)
        var all: [TensorSpecification?] = [
            tensors.tokenEmbedding, tensors.positionEmbedding, tensors.projectIn, tensors.projectOut,
            tensors.finalLayerNorm(.weight), tensors.finalLayerNorm(.bias),
        ]
        for layer in 0..<layerCount {
            for projection in OPTTensors.Projection.allCases {
                all.append(tensors.projectionWeight(projection, layer: layer))
                all.append(tensors.projectionBias(projection, layer: layer))
            }
            all += [
                tensors.attentionLayerNorm(.weight, layer: layer),
                tensors.attentionLayerNorm(.bias, layer: layer),
                tensors.mlpLayerNorm(.weight, layer: layer), tensors.mlpLayerNorm(.bias, layer: layer),
                tensors.fc1Weight(layer: layer), tensors.fc1Bias(layer: layer),
                tensors.fc2Weight(layer: layer), tensors.fc2Bias(layer: layer),
            ]
        }
        return all.compactMap(\.self)
    }
}
