import Foundation
import SystemPackage
import Testing

@testable import OPTModel

struct ConfigurationTests {
    private func load(_ json: String) throws -> OPTConfiguration {
        let folder = FileManager.default.temporaryDirectory.appending(
            path: "tandem-configuration-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try Data(json.utf8).write(to: folder.appending(path: "config.json"))
        return try OPTConfiguration(folder: FilePath(folder.path))
    }

    /// facebook/opt-125m's configuration, with some entries changed.
    private func published(_ changes: [String: String] = [:]) -> String {
        var entries = [
            "model_type": "\"opt\"", "num_hidden_layers": "12", "num_attention_heads": "12",
            "hidden_size": "768",
            "ffn_dim": "3072", "vocab_size": "50272", "max_position_embeddings": "2048",
            "word_embed_proj_dim": "768", "activation_function": "\"relu\"", "do_layer_norm_before": "true",
            "bos_token_id": "2", "eos_token_id": "2", "pad_token_id": "1", "torch_dtype": "\"float16\"",
        ]
        for (entry, value) in changes { entries[entry] = value }
        return "{" + entries.map { "\"\($0)\": \($1)" }.joined(separator: ", ") + "}"
    }

    @Test func `a published configuration is the one of the name table`() throws {
        var found = try load(published())
        let expected = try #require(OPTConfiguration(publishedModel: "facebook/opt-125m"))
        found.name = expected.name
        #expect(found == expected)
    }

    @Test func `a download is called by its model's name`() throws {
        let root = FileManager.default.temporaryDirectory.appending(path: "tandem-hub-\(UUID().uuidString)")
        let folder = root.appending(path: "models--facebook--opt-125m/snapshots/27dcfa7")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: root) }
        try Data(published().utf8).write(to: folder.appending(path: "config.json"))
        #expect(try OPTConfiguration(folder: FilePath(folder.path)).name == "opt-125m")
    }

    @Test(arguments: OPTConfiguration.publishedSizes)
    func `every published size has whole heads of a known width`(size: String) throws {
        let configuration = try #require(OPTConfiguration(publishedModel: "facebook/opt-\(size)"))
        #expect(configuration.headDimension * configuration.headCount == configuration.hiddenSize)
        #expect([64, 80, 128].contains(configuration.headDimension))
    }

    @Test func `the published sizes come to the published numbers of parameters`() throws {
        // Billions of parameters, as the models' names round them.
        for (size, billions) in [
            ("125m", 0.125), ("350m", 0.331), ("1.3b", 1.316), ("6.7b", 6.658), ("175b", 174.6),
        ] {
            let configuration = try #require(OPTConfiguration(publishedModel: "opt-\(size)"))
            let count = configuration.tensorSpecifications.reduce(0) { $0 + $1.shape.elementCount! }
            #expect(abs(Double(count) / 1e9 / billions - 1) < 0.005, "\(size): \(count)")
        }
    }

    @Test(
        arguments: [
            ("activation_function", "\"swish\"", "swish"),
            ("num_attention_heads", "7", "num_attention_heads 7"),
            ("num_attention_heads", "0", "num_attention_heads is 0"),
            ("hidden_size", "-768", "hidden_size is -768"),
            ("hidden_size", "\"768\"", "hidden_size"),
            ("model_type", "\"llama\"", "llama"),
            ("eos_token_id", "60000", "eos_token_id is 60000"),
            ("tie_word_embeddings", "false", "tie_word_embeddings"),
            ("vocab_size", "null", "vocab_size"),
        ])
    func `an entry that no OPT model has is refused by name`(entry: String, value: String, sentence: String) {
        #expect {
            _ = try load(published([entry: value]))
        } throws: {
            "\($0)".contains(sentence) && "\($0)".contains("config.json")
        }
    }

    @Test func `what is no JSON, or not there, is refused with the file's name`() {
        #expect {
            _ = try load("{\"hidden_size\": 768,")
        } throws: {
            "\($0)".contains("config.json") && "\($0)".contains("JSON")
        }
        #expect {
            _ = try OPTConfiguration(folder: "/no/such/folder")
        } throws: {
            "\($0)".contains("/no/such/folder/config.json") && "\($0)".contains("no such file")
        }
    }
}
