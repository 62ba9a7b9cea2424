import Foundation
import Placement
import SystemPackage
import Testing

@testable import Engine
@testable import tandem

struct BenchCommandTests {
    struct Report: Decodable {
        var modelBytes: Int
        var cacheBytes: Int
        var peakMemoryBytes: Int
        var measuredSteps: Int
        var prefillSeconds: Double
        var decodeSeconds: Double
        var prefillTokensPerSecond: Double
        var decodeTokensPerSecond: Double
        var totalTokensPerSecond: Double
    }

    @Test func `bench computes FlexGen's figures`() throws {
        let result = try Program.run([
            "bench", "--model", "facebook/opt-125m", "--prompt-len", "8", "--gen-len", "9",
            "--gpu-batch-size",
            "2", "--cut-gen-len", "3", "--json",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let report = try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        #expect(report.measuredSteps == 2)
        // 12 layers, keys and values, 2 sequences of 17 positions, 768 wide, 2 bytes
        #expect(report.cacheBytes == 12 * 2 * 2 * 17 * 768 * 2)
        func expect(_ found: Double, _ expected: Double) { #expect(abs(found / expected - 1) < 1e-6) }
        expect(report.prefillTokensPerSecond, 2 * 8 / report.prefillSeconds)
        expect(report.decodeTokensPerSecond, 2 * 8 / report.decodeSeconds)
        expect(report.totalTokensPerSecond, 2 * 9 / (report.prefillSeconds + report.decodeSeconds))
        let text = try Program.run([
            "bench", "--model", "facebook/opt-125m", "--prompt-len", "8", "--gen-len", "4",
        ])
        for line in [
            "prefill latency", "decode throughput", "total latency", "p99", "a plain read loop",
        ] {
            #expect(text.output.contains(line))
        }
    }

    @Test func `loading takes no more memory than the weights and 5 percent`() throws {
        let folder = try TemporaryFolder()
        try writeCheckpoint(to: folder.url, hidden: 1024, layers: 10)
        func report(path: String) throws -> Report {
            let result = try Program.run([
                "bench", "--model", folder.url.path, "--path", path, "--prompt-len", "1", "--gen-len", "1",
                "--json", "--device", "cpu",
            ])
            #expect(result.status == 0, "\(result.errors)")
            return try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        }
        let fromFile = try report(path: folder.url.path)
        #expect(fromFile.modelBytes > 240_000_000)
        // What the program takes beside the weights shows where they are made in place, without a file.
        let made = try report(path: "_DUMMY_")
        let program = made.peakMemoryBytes - made.modelBytes
        #expect(program < 60_000_000)
        #expect(fromFile.peakMemoryBytes - program < fromFile.modelBytes + fromFile.modelBytes / 20)
    }

    /// A safetensors checkpoint of a made-up size with random-looking weights.
    private func writeCheckpoint(to folder: URL, hidden: Int, layers: Int) throws {
        let configuration = """
            {"model_type": "opt", "num_hidden_layers": \(layers), "num_attention_heads": 16, "hidden_size": \(hidden),
             "ffn_dim": \(4 * hidden), "vocab_size": 512, "max_position_embeddings": 128,
             "word_embed_proj_dim": \(hidden), "activation_function": "relu", "do_layer_norm_before": true}
            """
        try Data(configuration.utf8).write(to: folder.appending(path: "config.json"))
        var tensors: [(String, [Int])] = [
            ("embed_tokens.weight", [512, hidden]), ("embed_positions.weight", [130, hidden]),
            ("final_layer_norm.weight", [hidden]), ("final_layer_norm.bias", [hidden]),
        ]
        for layer in 0..<layers {
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                tensors.append(("layers.\(layer).self_attn.\(part).weight", [hidden, hidden]))
                tensors.append(("layers.\(layer).self_attn.\(part).bias", [hidden]))
            }
            tensors += [
                ("layers.\(layer).fc1.weight", [4 * hidden, hidden]),
                ("layers.\(layer).fc1.bias", [4 * hidden]),
                ("layers.\(layer).fc2.weight", [hidden, 4 * hidden]), ("layers.\(layer).fc2.bias", [hidden]),
            ]
            for norm in ["self_attn_layer_norm", "final_layer_norm"] {
                for part in ["weight", "bias"] {
                    tensors.append(("layers.\(layer).\(norm).\(part)", [hidden]))
                }
            }
        }
        var entries: [String] = []
        var offset = 0
        for (name, shape) in tensors {
            let byteCount = shape.reduce(2, *)
            entries.append(
                "\"model.decoder.\(name)\":{\"dtype\":\"F16\",\"shape\":\(shape),"
                    + "\"data_offsets\":[\(offset),\(offset + byteCount)]}")
            offset += byteCount
        }
        let header = Data("{\(entries.joined(separator: ","))}".utf8)
        let url = folder.appending(path: "model.safetensors")
        try Data().write(to: url)
        let file = try FileHandle(forWritingTo: url)
        try file.write(
            contentsOf: withUnsafeBytes(of: UInt64(header.count).littleEndian) { Data($0) } + header)
        // Halves between 2^-8 and 2^-7, of both signs.
        let chunk = Data(
            (0..<1 << 20).map { $0 % 2 == 0 ? UInt8(truncatingIfNeeded: $0 * 37) : $0 % 4 == 1 ? 0x1C : 0x9C }
        )
        var rest = offset
        while rest > 0 {
            try file.write(contentsOf: chunk.prefix(rest))
            rest -= min(rest, chunk.count)
        }
        try file.close()
    }

    @Test func `remembered limits are those of the doctor, and without them it says what to do`() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "cache-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        func run() throws -> Program.Result {
            try Program.run(
                [
                    "bench", "--model", "facebook/opt-125m", "--device", "cpu", "--prompt-len", "4",
                    "--gen-len",
                    "2", "--json", "--remembered-limits",
                ], environment: ["XDG_CACHE_HOME": folder.path])
        }
        let refused = try run()
        #expect(refused.status != 0)
        #expect(refused.errors.contains("run tandem doctor once"), "\(refused.errors)")

        let profile = try HardwareProfile.rememberMadeUp(
            memoryReadBytesPerSecond: 123e9, in: FilePath(folder.path))
        let result = try run()
        #expect(result.status == 0, "\(result.errors)")
        let report = try JSONDecoder().decode(RememberedReport.self, from: Data(result.output.utf8))
        #expect(report.limitsDate == profile.date)
        #expect(report.limits.readBytesPerSecond == 123e9)
        #expect(report.resources.map(\.sustainedBytesPerSecond) == [123e9])
    }
}

private struct RememberedReport: Decodable {
    var limitsDate: String?
    var limits: MachineLimits
    var resources: [ResourceUse]
}
