import Foundation
import Testing

/// What several processes that share a model print; they compute on the CPU.
@Suite(.serialized, .enabled(if: RankedRun.canLaunch, "there is no mpirun")) struct GroupCommandTests {
    private struct Document: Decodable {
        struct Completion: Decodable { var tokens: [Int32] }
        struct Report: Decodable { var decodeReduceSeconds: Double? }
        var completions: [Completion]
        var reports: [Report]
    }

    private static let ranked = ["--use-mpi", "--device", "cpu"]

    private func document(_ result: Program.Result) throws -> Document {
        #expect(result.status == 0, "\(result.errors)")
        return try JSONDecoder().decode(Document.self, from: Data(result.output.utf8))
    }

    private static let greedy = [
        "generate", "--temperature", "0", "--ignore-end-of-sequence", "--json", "-q",
    ]

    @Test(arguments: [1, 2, 3, 4]) func `ranks write the tokens that one process writes`(count: Int) throws {
        // A batch, and a prompt that is computed as many rows at once.
        let long = String(repeating: "The king had a daughter who was fair. ", count: 12)
        let arguments =
            Self.greedy + ["--max-tokens", "32", "--prompt", "Once upon a time", "--prompt", long]
        let alone = try document(Program.run(arguments + ["--device", "cpu"]))
        let together = try document(RankedRun(count, arguments + Self.ranked).wait())
        #expect(together.completions.map(\.tokens) == alone.completions.map(\.tokens))
        #expect(alone.reports.allSatisfy { $0.decodeReduceSeconds == nil })
        #expect(together.reports.allSatisfy { ($0.decodeReduceSeconds ?? 0) > 0 } == (count > 1))
    }

    @Test func `ranks write the tokens that transformers writes`() throws {
        struct Golden: Decodable {
            struct Prompt: Decodable {
                var text: String?
                var tokens: [Int32]
            }
            var prompts: [Prompt]
        }
        let url = Program.root.appending(path: "Tests/Fixtures/Golden/storybook/golden.json")
        let prompts = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: url)).prompts
        let texts = prompts.compactMap(\.text)
        try #require(texts.count == prompts.count)
        let result = try RankedRun(
            3,
            Self.greedy + Self.ranked + ["--repetition-penalty", "1", "--max-tokens", "64"]
                + texts.flatMap { ["--prompt", $0] }
        ).wait()
        #expect(try document(result).completions.map(\.tokens) == prompts.map(\.tokens))
    }

    @Test(arguments: ["dist-low-latency-opt", "dist_low_latency_opt"])
    func `dist-low-latency-opt reports what each rank has, and rank 0 alone prints`(name: String) throws {
        let result = try RankedRun(
            4,
            [
                name, "--head-ip", "127.0.1.1", "--port", "7777", "--use-mpi", "--model", "facebook/opt-125m",
                "--path", "_DUMMY_", "--device", "cpu", "--prompt-len", "16", "--gen-len", "4",
                "--gpu-batch-size", "2", "--comm-device", "cpu", "--verbose",
            ]
        ).wait()
        #expect(result.status == 0, "\(result.errors)")
        let lines = result.output.split(separator: "\n")
        #expect(lines.count { $0.hasPrefix("prefill latency: ") } == 1)
        #expect(lines.count { $0.hasPrefix("all-reduces: ") && $0.contains(" ms a token") } == 1)
        for rank in 0..<4 {
            let line = "rank \(rank) of 4, local rank \(rank) on "
            let reports = lines.filter { $0.hasPrefix(line) }
            #expect(reports.count == 1)
            #expect(reports.first?.contains(" MiB   peak CPU memory: ") == true, "\(reports)")
            #expect(reports.first?.contains("unknown") == false, "\(reports)")
            #expect(result.errors.split(separator: "\n").count { $0.hasPrefix(line) } == 1)
        }
    }

    @Test func `bench runs on several ranks, as JSON too`() throws {
        struct Report: Decodable {
            struct Rank: Decodable { var weightByteCount: Int }
            var ranks: [Rank]
            var modelBytes: Int
            var allReduceMillisecondsPerStep: Double?
        }
        let result = try RankedRun(
            2,
            ["bench", "--model", "facebook/opt-125m", "--prompt-len", "8", "--gen-len", "4", "--json"]
                + Self.ranked
        ).wait()
        #expect(result.status == 0 && result.errors == "", "\(result.errors)")
        let report = try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        #expect(report.ranks.count == 2)
        #expect(report.ranks.reduce(0) { $0 + $1.weightByteCount } == report.modelBytes)
        #expect(try #require(report.allReduceMillisecondsPerStep) > 0)
    }

    @Test func `ranks find the perplexity that one process finds`() throws {
        let arguments =
            PerplexityCommandTests.arguments + ["--max-tokens", "1200", "--window", "900", "--json"]
        let alone = try PerplexityCommandTests.Report(try Program.run(arguments))
        let together = try PerplexityCommandTests.Report(try RankedRun(3, arguments + ["--use-mpi"]).wait())
        #expect(together.ranks.count == 3 && together.scoredTokens == 1200)
        #expect(abs(together.perplexity / alone.perplexity - 1) < 1e-3)
    }

    @Test func `help is printed once`() throws {
        let result = try RankedRun(2, ["generate", "--help"]).wait()
        #expect(result.status == 0)
        #expect(result.output.components(separatedBy: "OVERVIEW:").count == 2)
    }
}
