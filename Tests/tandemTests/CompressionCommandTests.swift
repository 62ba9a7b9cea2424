import Engine
import Foundation
import Placement
import SystemPackage
import Testing

/// What `--compress auto` chooses and says.
struct CompressionCommandTests {
    /// A cache folder of its own, in which this machine was measured.
    private final class Cache {
        let folder: TemporaryFolder
        var environment: [String: String] { ["XDG_CACHE_HOME": folder.url.path] }

        init() throws {
            folder = try TemporaryFolder()
            try HardwareProfile.rememberMadeUp(
                memoryReadBytesPerSecond: 2e10, in: FilePath(folder.url.path))
        }

        func run(_ arguments: [String]) throws -> Program.Result {
            try Program.run(arguments, environment: environment)
        }
    }

    private static let text = ["--perplexity-text", PerplexityCommandTests.text]
    private static let storybook = Program.root.appending(path: "Models/storybook").path

    @Test func `the form is chosen and said once it was measured, by all commands alike`() throws {
        let cache = try Cache()
        // 4-bit weights lose 2.5 %, with a cache of 4 bits 3.3.
        let auto = ["--compress", "auto", "--max-perplexity-loss", "6"]
        let generate = [
            "generate", "--prompt", "The king", "--max-tokens", "8", "--temperature", "0", "--device", "cpu",
        ]
        let first = try cache.run(generate + auto + Self.text)
        #expect(first.status == 0, "\(first.errors)")
        #expect(first.errors.contains("measuring the perplexity of storybook in fp16 on 5120 tokens"))
        #expect(first.errors.contains("kept in the fastest form with at most 6 % more perplexity"))
        let line = try #require(first.errors.split(separator: "\n").first { $0.hasSuffix(": chosen") })
        #expect(line.contains("weights in 4 bits") && line.contains("ms a token predicted"))
        // With the form given the same tokens come.
        let given =
            line.contains("cache in 4") ? ["--compress-weight", "--compress-cache"] : ["--compress-weight"]
        #expect(try cache.run(generate + given).output == first.output)

        let second = try cache.run(generate + auto)
        #expect(second.output == first.output && !second.errors.contains("measuring"), "\(second.errors)")
        #expect(second.errors.contains(line))
        let quiet = try cache.run(generate + auto + ["--quiet"])
        #expect(quiet.output == first.output && quiet.errors == "", "\(quiet.errors)")

        struct Bench: Decodable { var compressionChoice: [String] }
        let bench = try cache.run(
            [
                "bench", "--model", "storybook", "--path", Self.storybook, "--device", "cpu", "--prompt-len",
                "8",
            ]
                + ["--gen-len", "4", "--json"] + auto)
        let report = try JSONDecoder().decode(Bench.self, from: Data(bench.output.utf8))
        #expect(report.compressionChoice.count == 7)
        #expect(report.compressionChoice.contains { $0.hasSuffix(": chosen") })
        let perplexity = try cache.run(
            PerplexityCommandTests.arguments + auto + ["--against", "fp16", "--max-tokens", "600"])
        #expect(perplexity.output.contains(": chosen\n"), "\(perplexity.errors)")
        #expect(perplexity.output.contains("storybook, weights in 4 bits"))
    }

    @Test func `plan says what was tried, and prints the form's flags with the others`() throws {
        let cache = try Cache()
        let plan = ["plan", "--model", "storybook", "--compress", "auto"] + Self.text
        for (percent, flags) in [("4", "--compress-weight"), ("0.5", "--compress-weight --weight-bits 8")] {
            let machine = cache.folder.url.appending(path: "machine.json")
            // So slow that it is worth having fewer bytes even of so small a model.
            let slow = PlanCommandTests.report.replacing("4.6e12", with: "1e11")
            try Data(slow.utf8).write(to: machine)
            let result = try cache.run(
                plan + ["--max-perplexity-loss", percent, "--machine", machine.path, "--prompt-len", "16"])
            #expect(result.status == 0, "\(result.errors)")
            let lines = result.output.split(separator: "\n")
            #expect(lines.contains { $0.hasPrefix("--per-layer-percent 100 0") && $0.contains(flags) })
            #expect(lines.count { $0.contains("ms a token predicted") || $0.contains("not possible:") } == 6)
            #expect(lines.count { $0.hasSuffix(": chosen") } == 1)
        }
        let result = try Program.run(
            ["plan", "--model", "facebook/opt-1.3b", "--compress", "auto"] + Self.text,
            environment: cache.environment.merging(["HF_HUB_CACHE": cache.folder.url.path]) { $1 })
        for part in [
            "measures losses with the model itself: the model facebook/opt-1.3b was not found (looked in ",
            cache.folder.url.path, "; give the folder of its weights with --model",
        ] {
            #expect(result.status == 1 && result.errors.contains(part), "\(result.errors)")
        }
        #expect(!result.errors.contains("random weights"), "\(result.errors)")
    }

    @Test(
        arguments: [
            (["--compress", "auto", "--compress-weight"], 64, "chooses what --compress-weight says"),
            (
                ["--compress", "auto", "--weight-bits", "8", "--compress-weight"], 64,
                "--compress auto chooses"
            ),
            (["--compress", "auto", "--compress-cache", "false"], 64, "chooses what --compress-cache says"),
            (["--max-perplexity-loss", "2"], 64, "--max-perplexity-loss is for --compress auto"),
            (["--perplexity-text", "x"], 64, "--perplexity-text is for --compress auto"),
            (["--compress", "auto", "--max-perplexity-loss", "-1"], 64, "give a percentage of 0 or more"),
            (["--compress", "auto", "--max-perplexity-loss", "nan"], 64, "give a percentage of 0 or more"),
            (["--compress", "much"], 64, "auto"),
            (
                ["--compress", "auto", "--cpu-cache-compute"], 64,
                "cannot predict steps with --cpu-cache-compute"
            ),
            (["--compress", "auto", "--rank", "0", "--world-size", "2"], 64, "chooses for one process"),
            (["--compress", "auto", "--perplexity-text", "/no/such"], 1, "cannot read the text to measure"),
            (["--compress", "auto", "--threads", "0"], 1, "0 threads were asked for"),
            (["--compress", "auto", "--path", "_DUMMY_"], 1, "random weights predict nothing"),
            (["--compress", "auto"], 1, "give a text to measure it on with --perplexity-text"),
        ])
    func `a mistake is one sentence and a status`(arguments: [String], status: Int, sentence: String) throws {
        let result = try Cache().run(["generate", "--device", "cpu", "--prompt", "The king"] + arguments)
        #expect(result.status == Int32(status) && result.output == "")
        #expect(result.errors.contains(sentence), "\(result.errors)")
    }

    @Test func `a sweep and a folder that has been converted have no form to choose`() throws {
        let cache = try Cache()
        let sweep = try cache.run(["bench", "--sweep", "computation", "--compress", "auto"])
        #expect(sweep.status == 64 && sweep.errors.contains("--sweep compares placements of one form"))
        let folder = cache.folder.url.appending(path: "four").path
        let conversion = try cache.run(["convert", "storybook", "--output", folder])
        #expect(conversion.status == 0, "\(conversion.errors)")
        let result = try cache.run(
            ["generate", "--device", "cpu", "--model", folder, "--prompt", "The king", "--compress", "auto"]
                + Self.text)
        #expect(
            result.status == 1 && result.errors.contains("has been quantized to 4 bits"), "\(result.errors)")
    }
}
