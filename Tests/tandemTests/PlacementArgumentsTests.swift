import ArgumentParser
import Placement
import Testing

@testable import tandem

struct PlacementArgumentsTests {
    /// A sub-command as the programs' are: a name that may be written with `_`, an option of its own.
    private struct Root: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "root", subcommands: [LowLatency.self])
    }

    private struct LowLatency: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "low-latency-opt", aliases: ["low_latency_opt"])
        @OptionGroup var placement: PlacementArguments
        @Option var gpuBatchSize = 1
    }

    private func parse(_ line: String) throws -> LowLatency {
        let arguments = attachNegativeNumbers(line.split(separator: " ").map(String.init))
        return try #require(try Root.parseAsRoot(arguments) as? LowLatency)
    }

    /// The sentence with which a line is refused, and its exit code.
    private func refusal(_ line: String) -> (message: String, code: Int32)? {
        do {
            _ = try parse(line)
            return nil
        } catch {
            return (Root.message(for: error), Root.exitCode(for: error).rawValue)
        }
    }

    @Test(arguments: ["low-latency-opt", "low_latency_opt"])
    func `the mission's line gives its placement`(name: String) throws {
        let command = try parse(
            "\(name) --cache-percent 100 0 --per-layer-percent 0 100 0 100 12.5 80 0 100 --gpu-batch-size 3")
        #expect(command.gpuBatchSize == 3)
        let request = try #require(try command.placement.request)
        #expect(request.weights.attention == (try TierShares(gpuPercent: 12.5, cpuPercent: 80)))
        #expect(request.weights.outputEmbedding == .allOnCPU)
        #expect(request.cache == .allOnGPU)
    }

    @Test func `weights and computation give a placement that both lanes compute`() throws {
        let command = try parse(
            "low-latency-opt --per-layer-weight-percent 0 100 0 100 20 80 0 100 --per-layer-computation-percent 40 40 40 40"
        )
        let request = try #require(try command.placement.request)
        #expect(request.computation.attention == 40 && request.weights.attention.gpuPercent == 20)
        #expect(request.cache.gpuPercent == 40 && request.usesBothLanes)
    }

    @Test(arguments: [
        (
            "--per-layer-percent 0 100 0 100 0 100 0 100 --per-layer-computation-percent 40 40 40 40",
            "give --per-layer-weight-percent in its place"
        ),
        ("--per-layer-computation-percent 40 40 40 40", "needs --per-layer-weight-percent"),
        (
            "--per-layer-weight-percent 0 100 0 100 50 50 0 100 --per-layer-computation-percent 40 40 40 40",
            "self-attention has 50 % of its weights on the GPU, which computes 40 %"
        ),
        (
            "--per-layer-weight-percent 0 100 0 100 0 100 0 100 --per-layer-computation-percent 40 40 40",
            "takes four numbers"
        ),
    ])
    func `weights and computation that do not go together are refused`(line: String, sentence: String) {
        #expect(refusal("low-latency-opt \(line)")?.message.contains(sentence) == true)
    }

    @Test func `without percentages the placement is Tandem's, with FlexGen's other defaults`() throws {
        let placement = try parse("low-latency-opt").placement
        #expect(try placement.request == nil && placement.cacheShares == nil)
        #expect(try placement.pinsWeights && placement.overlaps && !placement.computesCacheOnCPU)
        #expect(placement.stagingSlots == 4 && placement.offloadDir == nil)
        let cache = try parse("low-latency-opt --cache-percent 0 50").placement
        #expect(try cache.request == nil && cache.cacheShares?.diskPercent == 50)
    }

    @Test func `switches stand alone, take a value, or an attached one`() throws {
        for (text, value) in [
            ("true", true), ("1", true), ("yes", true), ("True", true), ("false", false), ("0", false),
            ("no", false), ("False", false),
        ] {
            for separator in [" ", "="] {
                let line =
                    "low-latency-opt --overlap\(separator)\(text) --pin-weight\(separator)\(text) "
                    + "--cpu-cache-compute\(separator)\(text)"
                let placement = try parse(line).placement
                #expect(try placement.overlaps == value, "\(line)")
                #expect(try placement.pinsWeights == value, "\(line)")
                #expect(try placement.computesCacheOnCPU == value, "\(line)")
            }
        }
        let alone = try parse(
            "low-latency-opt --cpu-cache-compute --overlap 0 --pin-weight --gpu-batch-size 0 --staging-slots 2"
        )
        #expect(try alone.placement.computesCacheOnCPU && alone.placement.pinsWeights)
        #expect(try !alone.placement.overlaps)
        #expect(alone.gpuBatchSize == 0 && alone.placement.stagingSlots == 2)
        #expect(try parse("low-latency-opt --cpu-cache-compute").placement.computesCacheOnCPU)
    }

    @Test(arguments: ["--overlap=off", "--overlap maybe", "--overlap 2"])
    func `a switch that says nothing is refused`(argument: String) {
        let message = refusal("low-latency-opt \(argument)")?.message
        #expect(
            message?.hasSuffix("; give true, false, 1, 0, yes or no, or the flag alone") == true,
            "\(message ?? "accepted")")
    }

    @Test func `wrong percentages are refused in Placement's sentences, with exit code 1`() {
        for (line, sentence) in [
            ("--per-layer-percent 0 100 0 100 0 100", "; 6 were given"),
            (
                "--per-layer-percent 0 100 0 100 -5 100 0 100",
                "--per-layer-percent: self-attention: the GPU's percentage is -5; give a number from 0 to 100"
            ),
            ("--per-layer-percent -1 100 0 100 0 100 0 100", "is -1; give a number from 0 to 100"),
            ("--per-layer-percent 0 100 0 100 0 100 0 -0.5", "is -0.5; give a number from 0 to 100"),
            ("--per-layer-percent 0 100 0 100 0 100 nan 100", "is not a number; give"),
            ("--per-layer-percent 0 100 0 100 60 50 0 100", "are 110 % together"),
            ("--cache-percent 100", "; 1 was given"),
            ("--cache-percent 101 0 --gpu-batch-size 1", "--cache-percent: the GPU's percentage is 101"),
        ] {
            let refusal = refusal("low-latency-opt \(line)")
            #expect(refusal?.message.contains(sentence) == true, "\(line): \(refusal?.message ?? "accepted")")
            #expect(refusal?.code == 1, "\(line)")
        }
        #expect(
            refusal("low-latency-opt --per-layer-percent 30%")?.message.contains("'30%' is invalid") == true)
        #expect(refusal("low-latency-opt --per-layer-percent")?.message.contains("Missing value") == true)
        #expect(refusal("low-latency-opt --staging-slots 1")?.message.contains("give 2 or more") == true)
        #expect(refusal("low-latency-opt --staging-slots -1")?.message.contains("is -1; give 2") == true)
    }

    @Test func `negative numbers are joined to the option before them, nothing else is touched`() {
        func attached(_ line: String) -> String {
            attachNegativeNumbers(line.split(separator: " ").map(String.init)).joined(separator: " ")
        }
        #expect(attached("run --a -5 --b 0 -1 2 -.5") == "run --a=-5 --b 0 --b=-1 2 --b=-.5")
        #expect(attached("run --a=1 -2 -3") == "run --a=1 --a=-2 --a=-3")
        for line in ["run -q --a x -b", "run -5", "run -q -5", "--a -- -5", "--a - --b -x5", ""] {
            #expect(attached(line) == line)
        }
        #expect(attachNegativeNumbers(["--prompt", "-5 degrees"]) == ["--prompt", "-5 degrees"])
    }
}
