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
