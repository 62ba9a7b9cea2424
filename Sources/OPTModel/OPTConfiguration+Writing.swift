import FoundationEssentials
import SystemPackage
import TensorCore

extension OPTConfiguration {
    /// The text of a folder's `config.json`, as it is there, with an entry that says how the weights are quantized.
    static func text(of folder: FilePath, quantization: Quantization) throws(ModelError) -> String {
        let path = folder.appending(fileName)
        guard let data = try? Data(contentsOf: URL(filePath: path.string)),
            let text = String(validating: data, as: UTF8.self), let end = text.lastIndex(of: "}")
        else {
            throw ModelError(.invalidConfiguration, file: path, "\(path) is not an OPT configuration")
        }
        return adding(QuantizationEntry(quantization), to: text[..<end])
    }

    /// The same for a model without a folder.
    func text(quantization: Quantization) -> String {
        let members: [(entry: String, value: any CustomStringConvertible)] = [
            ("architectures", "[\"OPTForCausalLM\"]"), ("model_type", "\"opt\""),
            ("num_hidden_layers", layerCount), ("num_attention_heads", headCount),
            ("hidden_size", hiddenSize), ("ffn_dim", feedForwardSize), ("vocab_size", vocabularySize),
            ("max_position_embeddings", maximumPositions), ("word_embed_proj_dim", embeddingSize),
            ("activation_function", "\"\(activation.rawValue)\""), ("do_layer_norm_before", normalizesBefore),
            ("_remove_final_layer_norm", normalizesBefore && !hasFinalLayerNorm),
            ("enable_bias", hasBiases), ("layer_norm_elementwise_affine", hasAffineLayerNorms),
            ("bos_token_id", beginOfSequence), ("eos_token_id", endOfSequence), ("pad_token_id", padding),
        ]
        let lines = members.map { "  \"\($0.entry)\": \($0.value)" }
        return Self.adding(QuantizationEntry(quantization), to: "{\n" + lines.joined(separator: ",\n"))
    }

    /// - Parameter open: an object without its last brace.
    private static func adding(_ entry: QuantizationEntry, to open: some StringProtocol) -> String {
        var text = String(open)
        while text.last?.isWhitespace == true { text.removeLast() }
        return text + ",\n  \(entry.jsonMember)\n}\n"
    }
}
