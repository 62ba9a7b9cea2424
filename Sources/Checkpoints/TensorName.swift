/// The canonical names of OPT's tensors: `decoder.…`, with `decoder.final_layer_norm` for the last layer
/// norm.
///
/// Published checkpoints differ in a leading `model.`; FlexGen's converted folders, and fairseq before them,
/// call the last layer norm `decoder.layer_norm`.
enum TensorName {
    static let tokenEmbedding = "decoder.embed_tokens.weight"
    /// The output projection. OPT ties it to the token embedding, so that either may stand for both.
    static let outputProjection = "lm_head.weight"

    static func canonical(_ stored: String) -> String {
        var name = stored[...]
        if name.hasPrefix("model.decoder.") { name = name.dropFirst("model.".count) }
        for alias in ["decoder.layer_norm.weight", "decoder.layer_norm.bias"] where name == alias {
            name = "decoder.final_" + name.dropFirst("decoder.".count)
        }
        return String(name)
    }

    /// Whether a file of this name in a folder of .npy files is one of OPT's tensors.
    static func isTensorOfOPT(_ stored: String) -> Bool {
        stored.hasPrefix("decoder.") || stored.hasPrefix("model.decoder.") || stored == outputProjection
    }
}
