import FoundationEssentials
import SystemPackage

extension OPTConfiguration {
    /// Reads `config.json` from a model's folder.
    public init(folder: FilePath) throws(ModelError) {
        let path = folder.appending(Self.fileName)
        let data: Data
        do {
            data = try Data(contentsOf: URL(filePath: path.string))
        } catch {
            throw ModelError(
                .missingFile, file: path,
                "cannot read \(path): \(Self.reason(of: error)). A model's folder holds config.json, its weights "
                    + "and its tokenizer; give one with --model")
        }
        let file: ConfigurationFile
        do {
            file = try JSONDecoder().decode(ConfigurationFile.self, from: data)
        } catch {
            throw ModelError(
                .invalidConfiguration, file: path,
                "\(path) is not an OPT configuration: \(Self.reason(of: error))")
        }
        self = try file.configuration(path: path, name: Self.name(of: folder))
    }

    static let fileName = "config.json"

    /// What to call the model in a folder. A download of Hugging Face's tools lies in
    /// `models--facebook--opt-1.3b/snapshots/<revision>`.
    private static func name(of folder: FilePath) -> String {
        let snapshots = folder.removingLastComponent()
        if snapshots.lastComponent?.string == "snapshots",
            let download = snapshots.removingLastComponent().lastComponent?.string,
            download.hasPrefix("models--")
        {
            return download.split(separator: "--").last.map(String.init) ?? download
        }
        return folder.lastComponent?.string ?? folder.string
    }

    private static func reason(of error: any Error) -> String {
        switch error {
        case DecodingError.keyNotFound(let key, _): "the entry \"\(key.stringValue)\" is missing"
        case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context):
            "the entry \"\(context.codingPath.last?.stringValue ?? "")\" has the wrong type"
        case DecodingError.dataCorrupted: "it is not valid JSON"
        case let error as CocoaError where error.code == .fileReadNoSuchFile: "there is no such file"
        default: "it could not be read"
        }
    }
}

/// `config.json` with the names that transformers' `OPTConfig` gives its entries.
private struct ConfigurationFile: Decodable {
    var model_type: String?
    var num_hidden_layers: Int
    var num_attention_heads: Int
    var hidden_size: Int
    var ffn_dim: Int
    var vocab_size: Int
    var max_position_embeddings: Int
    var word_embed_proj_dim: Int?
    var activation_function: String?
    var do_layer_norm_before: Bool?
    // swift-format-ignore: NoLeadingUnderscores
    var _remove_final_layer_norm: Bool?
    var enable_bias: Bool?
    var layer_norm_elementwise_affine: Bool?
    var tie_word_embeddings: Bool?
    var bos_token_id: Int32?
    var eos_token_id: Int32?
    var pad_token_id: Int32?
    var tandem_quantization: QuantizationEntry?

    func configuration(path: FilePath, name: String) throws(ModelError) -> OPTConfiguration {
        func refuse(_ sentence: String) -> ModelError {
            ModelError(.invalidConfiguration, file: path, "\(path): \(sentence)")
        }
        if let model_type, model_type != "opt" {
            throw refuse("model_type is \"\(model_type)\"; Tandem runs OPT models only (\"opt\")")
        }
        let extents = [
            ("num_hidden_layers", num_hidden_layers), ("num_attention_heads", num_attention_heads),
            ("hidden_size", hidden_size), ("ffn_dim", ffn_dim), ("vocab_size", vocab_size),
            ("max_position_embeddings", max_position_embeddings),
            ("word_embed_proj_dim", word_embed_proj_dim ?? hidden_size),
        ]
        for (entry, value) in extents where value < 1 || value > 1 << 24 {
            throw refuse("\(entry) is \(value), which no OPT model has; restore the published config.json")
        }
        guard hidden_size % num_attention_heads == 0 else {
            throw refuse(
                "hidden_size \(hidden_size) is not a multiple of num_attention_heads \(num_attention_heads); "
                    + "restore the published config.json")
        }
        guard let activation = OPTConfiguration.Activation(rawValue: activation_function ?? "relu") else {
            throw refuse(
                "activation_function is \"\(activation_function ?? "")\"; OPT models use \"relu\" or \"gelu\""
            )
        }
        if tie_word_embeddings == false {
            throw refuse("tie_word_embeddings is false; OPT ties its output embedding to its input embedding")
        }
        let normalizesBefore = do_layer_norm_before ?? true
        let ends = (bos_token_id ?? 2, eos_token_id ?? 2, pad_token_id ?? 1)
        for (entry, id) in [("bos_token_id", ends.0), ("eos_token_id", ends.1)]
        where id < 0 || id >= vocab_size {
            throw refuse("\(entry) is \(id), outside the vocabulary of \(vocab_size)")
        }
        var configuration = OPTConfiguration(
            name: name, layerCount: num_hidden_layers, headCount: num_attention_heads,
            headDimension: hidden_size / num_attention_heads,
            hiddenSize: hidden_size, feedForwardSize: ffn_dim, vocabularySize: vocab_size,
            maximumPositions: max_position_embeddings, embeddingSize: word_embed_proj_dim ?? hidden_size,
            activation: activation, normalizesBefore: normalizesBefore,
            hasFinalLayerNorm: normalizesBefore && !(_remove_final_layer_norm ?? false),
            hasBiases: enable_bias ?? true, hasAffineLayerNorms: layer_norm_elementwise_affine ?? true,
            beginOfSequence: ends.0, endOfSequence: ends.1, padding: ends.2)
        if let tandem_quantization {
            switch tandem_quantization.quantization {
            case .success(let quantization): configuration.quantization = quantization
            case .failure(let problem): throw refuse("tandem_quantization has \(problem.sentence)")
            }
            if let problem = configuration.quantizationProblem {
                throw refuse(
                    "tandem_quantization is there, but \(problem); restore the published config.json")
            }
        }
        return configuration
    }
}
