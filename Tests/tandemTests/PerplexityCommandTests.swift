import Foundation
import Testing

/// What `tandem perplexity` prints.
struct PerplexityCommandTests {
    struct Report: Decodable {
        var perplexity: Double
        var standardError: Double
        var scoredTokens: Int
        var textTokens: Int
        var windows: Int
        var window: Int
        var stride: Int
        var seconds: Double
        var tokensPerSecond: Double
        var ranks: [Rank]
        var compression: String
        var comparison: Comparison?
        struct Comparison: Decodable {
            var reference: String
            var referencePerplexity: Double
            var perplexityLossPercent: Double
            var perplexityLossStandardErrorPercent: Double
            var divergence: Double
            var divergenceStandardError: Double
            var agreement: Double
        }
        struct Rank: Decodable { var weightByteCount: Int }

        init(_ result: Program.Result) throws {
            #expect(result.status == 0, "\(result.errors)")
            self = try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        }
    }

    static let text = Program.root.appending(path: "Models/storybook/held-out.txt").path
    static let arguments = ["perplexity", "--device", "cpu", "--file", text]

    @Test func `perplexity is printed with its standard error, and as JSON`() throws {
        let shape = ["--window", "300", "--stride", "100", "--max-tokens", "1001"]
        let result = try Program.run(Self.arguments + shape)
        #expect(result.status == 0 && result.errors == "", "\(result.errors)")
        let report = try Report(try Program.run(Self.arguments + shape + ["--json", "--threads", "1"]))
        #expect(report.scoredTokens == 1001 && report.textTokens == 1001)
        #expect(report.windows == 9 && report.window == 300 && report.stride == 100)
        #expect((20...60).contains(report.perplexity) && (0.5...5).contains(report.standardError))
        #expect(report.seconds > 0 && report.tokensPerSecond > 0 && report.ranks.isEmpty)
        #expect(result.output.contains("1001 tokens in 9 windows of 300, 100 apart"))
        let number = result.output.split(separator: "perplexity: ").last.flatMap {
            Double($0.prefix { $0 != " " })
        }
        #expect(abs(try #require(number) / report.perplexity - 1) < 1e-3)
    }

    @Test func `a cache of 4 bits raises it by less than one percent`() throws {
        let reports = try [[], ["--compress-cache"]].map {
            try Report(try Program.run(Self.arguments + ["--json"] + $0))
        }
        let ratio = reports[1].perplexity / reports[0].perplexity
        #expect(ratio != 1 && ratio < 1.01, "\(ratio)")
    }

    private static let short = ["--window", "256", "--stride", "256", "--max-tokens", "1024"]

    @Test func `a compressed model is held against fp16`() throws {
        func report(_ flags: [String]) throws -> Report {
            try Report(try Program.run(Self.arguments + Self.short + flags + ["--json"]))
        }
        let fp16 = try report([])
        #expect(fp16.comparison == nil && fp16.compression == "fp16")
        var divergences: [Double] = []
        for bits in ["8", "4"] {
            let flags = ["--compress-weight", "--weight-bits", bits]
            let (alone, report) = (try report(flags), try report(flags + ["--against", "fp16"]))
            let comparison = try #require(report.comparison)
            #expect(comparison.reference == "storybook in fp16")
            #expect(report.compression == "weights in \(bits) bits")
            #expect(abs(report.perplexity / alone.perplexity - 1) < 1e-4)
            #expect(abs(comparison.referencePerplexity / fp16.perplexity - 1) < 1e-4)
            let loss = 100 * (report.perplexity / comparison.referencePerplexity - 1)
            #expect(abs(comparison.perplexityLossPercent - loss) < 1e-6)
            // Of both together more is known than of each alone.
            #expect(
                comparison.perplexityLossStandardErrorPercent < 20 * report.standardError
                    / report.perplexity)
            #expect(comparison.divergenceStandardError < comparison.divergence)
            divergences.append(comparison.divergence)
            #expect((bits == "8" ? 0.97...1 : 0.7...0.97).contains(comparison.agreement))
        }
        #expect(divergences[0] > 0 && 20 * divergences[0] < divergences[1])
    }

    @Test func `a converted folder is held against the one that it was converted from`() throws {
        let folder = try TemporaryFolder()
        let conversion = try Program.run(["convert", "storybook", "--output", "four"], folder: folder.url)
        #expect(conversion.status == 0, "\(conversion.errors)")
        func run(_ flags: [String]) throws -> Program.Result {
            try Program.run(Self.arguments + Self.short + flags, folder: folder.url)
        }
        let refused = try run(["--model", "four", "--against", "fp16"])
        #expect(refused.status == 1 && refused.output == "")
        #expect(refused.errors.contains("give --against the folder that it was converted from"))
        let flags = ["--model", "four", "--against", "storybook"]
        let report = try Report(try run(flags + ["--json"]))
        let expected = try Report(try run(["--compress-weight", "--against", "fp16", "--json"]))
        let (found, wanted) = (try #require(report.comparison), try #require(expected.comparison))
        #expect(abs(found.divergence / wanted.divergence - 1) < 1e-2)
        #expect(abs(found.perplexityLossPercent - wanted.perplexityLossPercent) < 0.05)
        let text = try run(flags)
        #expect(text.status == 0 && text.errors == "", "\(text.errors)")
        for part in ["four, weights in 4 bits, ", "storybook in fp16: ", " % higher", "KL divergence: 0.0"] {
            #expect(text.output.contains(part), "\(text.output)")
        }
    }

    @Test(
        arguments: [
            (["--against", "fp16"], 1, "held against itself"),
            (["--against", "/no/such"], 1, "/no/such"),
            (
                ["--against", "fp16", "--compress-weight", "--world-size", "2", "--rank", "0"], 64,
                "start one"
            ),
            (["--against-device", "cpu"], 64, "--against-device cpu is for the model of --against"),
            // Room for weights in 4 bits, but not in 16.
            (
                ["--against", "fp16", "--compress-weight", "--cpu-memory", "7MiB"], 1,
                "storybook in fp16 has no room beside the measured model"
            ),
        ])
    func `what cannot be held against another is one sentence`(
        arguments: [String], status: Int, sentence: String
    ) throws {
        let result = try Program.run(Self.arguments + arguments)
        #expect(result.status == Int32(status) && result.output == "")
        #expect(result.errors.contains(sentence), "\(result.errors)")
    }

    @Test(
        arguments: [
            (["--file", "/no/such/text"], 1, "cannot read the text /no/such/text"),
            (["--file", "/dev/null"], 1, "/dev/null"),
            (["--file", text, "--window", "1"], 1, "window of 1"),
            (["--file", text, "--window", "2049"], 1, "2048 positions"),
            (["--file", text, "--window", "10", "--stride", "11"], 1, "give 1 to 10"),
            (["--file", text, "--max-tokens", "1"], 64, "--max-tokens is 1"),
            (["--file", text, "--model", "/no/such"], 1, "/no/such"),
            ([], 64, "--file"),
        ])
    func `a mistake is one sentence and a status`(arguments: [String], status: Int, sentence: String) throws {
        let result = try Program.run(["perplexity", "--device", "cpu"] + arguments)
        #expect(result.status == Int32(status))
        #expect(result.errors.contains(sentence), "\(result.errors)")
        #expect(result.output == "")
    }

    @Test(
        arguments: [
            (Data(), "is empty"), (Data([0x48, 0xC3, 0xA9, 0xFF]), "byte 3"),
            (Data("a".utf8), "comes to 1 token"),
        ])
    func `a file that holds no text of two tokens is refused`(contents: Data, sentence: String) throws {
        let file = try TemporaryFile(contents)
        let result = try Program.run(["perplexity", "--device", "cpu", "--file", file.url.path])
        #expect(result.status == 1 && result.output == "")
        #expect(result.errors.contains(sentence), "\(result.errors)")
    }
}
