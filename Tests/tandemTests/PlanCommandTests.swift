import Foundation
import Testing

struct PlanCommandTests {
    /// A machine like the one that docs/performance.md is about.
    static let report = """
        {"profile": {"gpu": {"name": "NVIDIA H200", "memoryByteCount": 150000000000, "multiprocessorCount": 132,
        "memoryReadBytesPerSecond": 4.6e12, "uploadBytesPerSecond": 5.55e10, "downloadBytesPerSecond": 5.4e10},
        "processor": {"name": "Xeon", "coreCount": 16, "instructionSet": "avx512", "memoryReadBytesPerSecond": 1.15e11},
        "diskReadBytesPerSecond": 2.7e9, "date": "2026-11-23T00:00:00Z",
        "together": {"memoryReadBytesPerSecond": 9.5e10, "uploadBytesPerSecond": 4.6e10}}}
        """

    private func plan(_ arguments: [String], report: String = report) throws -> Program.Result {
        let folder = try TemporaryFolder()
        let file = folder.url.appending(path: "machine.json")
        try Data(report.utf8).write(to: file)
        return try Program.run(["plan", "--machine", file.path] + arguments)
    }

    /// Milliseconds a token in the line of this name.
    private func milliseconds(_ name: String, _ text: String) -> Double? {
        let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
        return line?.dropFirst(name.count).split(separator: " ").first.flatMap { Double($0) }
    }

    @Test func `a model that has no room on the GPU is split between both lanes`() throws {
        let result = try plan([
            "--model", "facebook/opt-6.7b", "--gpu-memory", "4GiB", "--cpu-memory", "64GiB",
        ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.contains("\n--per-layer-weight-percent "))
        #expect(result.output.contains(" --per-layer-computation-percent "))
        let planned = try #require(milliseconds("planned", result.output))
        let floor = try #require(milliseconds("floor", result.output))
        #expect(planned > floor && planned < 1.2 * floor)
        #expect(try #require(milliseconds("all by the GPU", result.output)) > 2 * planned)
    }

    @Test func `what it prints is a placement that the other commands take`() throws {
        let result = try plan([
            "--model", "facebook/opt-1.3b", "--gpu-memory", "1GiB", "--cpu-memory", "8GiB",
        ])
        let line = try #require(result.output.split(separator: "\n").first { $0.hasPrefix("--per-layer") })
        let bench = try Program.run(
            ["bench", "--model", "facebook/opt-1.3b", "--device", "gpu"]
                + line.split(separator: " ").map(String.init) + ["--gen-len", "0"])
        // Refused for the length alone, after the placement was judged.
        #expect(bench.status == 64 && bench.errors.contains("--gen-len is 0"), "\(bench.errors)")
    }

    @Test func `a model that fits lies on the GPU whole`() throws {
        let result = try plan(["--model", "facebook/opt-6.7b"])
        let planned = try #require(milliseconds("planned", result.output))
        #expect(planned > 3 && planned < 4)
        #expect(result.output.contains("100 0 100 0 100 0 100 0"))
    }

    @Test(arguments: [
        (["--model", "facebook/opt-175b", "--gpu-memory", "1GiB", "--cpu-memory", "1KiB"], "does not fit"),
        (["--prompt-len", "0"], "--prompt-len is 0"),
        (["--machine", "/no/such/file"], "tandem doctor --json"),
    ])
    func `what cannot be planned is one sentence`(arguments: [String], sentence: String) throws {
        let result =
            arguments[0] == "--machine" ? try Program.run(["plan"] + arguments) : try plan(arguments)
        #expect(result.status != 0 && result.errors.contains(sentence), "\(result.errors)")
    }

    @Test func `a report without bandwidths is refused`() throws {
        let result = try plan([], report: "{\"profile\": 3}")
        #expect(result.status == 1 && result.errors.contains("has no bandwidths"))
    }
}
