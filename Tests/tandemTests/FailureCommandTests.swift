import CUDA
import Foundation
import Testing

/// What the program does when something fails in the middle of a step: it ends, soon, with a sentence.
@Suite(.serialized) struct FailureCommandTests {
    private static let hasGPU = (try? CUDADriver.load().device()) != nil
    private static let limit = 2.0

    private func generate(_ arguments: [String] = [], fault: String, interruptCount: Int = 0) throws
        -> Program.Result
    {
        try Program.run(
            [
                "generate", "--device", "cpu", "--prompt", "Once upon a time", "--max-tokens", "100",
                "--ignore-end-of-sequence", "--temperature", "0",
            ] + arguments,
            fault: fault, interruptCount: interruptCount)
    }

    private func balanced(fault: String, interruptCount: Int = 0) throws -> Program.Result {
        try Program.run(
            ["balanced-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_", "--prompt-len", "32"]
                + ["--gen-len", "32", "--per-layer-weight-percent"] + (0..<4).flatMap { _ in ["0", "100"] }
                + ["--per-layer-computation-percent"] + Array(repeating: "50", count: 4),
            fault: fault, interruptCount: interruptCount)
    }

    /// Where other programs take the processors an end that comes too late gets two more tries.
    private func expectEnd(status: Int32, _ sentence: String, of run: () throws -> Program.Result) throws
        -> Program.Result
    {
        var result = try run()
        for _ in 0..<2 where result.secondsSinceFault ?? 0 >= Self.limit { result = try run() }
        #expect(result.status == status, "\(result.errors)")
        #expect(result.errors.contains(sentence), "\(result.errors)")
        #expect(try #require(result.secondsSinceFault) < Self.limit, "\(result.errors)")
        return result
    }

    // MARK: On any machine

    @Test func `Ctrl-C in the middle of a slow step ends the program with what was written so far`() throws {
        let result = try expectEnd(status: 130, "stopped in the middle of a step") {
            try generate(fault: "slow-step@5", interruptCount: 1)
        }
        #expect(result.output.count > 5 && result.output.hasSuffix("\n"))
    }

    @Test func `Ctrl-C in the middle of a slow step prints the document so far`() throws {
        struct Document: Decodable {
            struct Completion: Decodable {
                var tokens: [Int]
                var finishReason: String
            }
            var completions: [Completion]
        }
        let result = try expectEnd(status: 130, "stopped in the middle of a step") {
            try generate(["--json"], fault: "slow-step@5", interruptCount: 1)
        }
        let completion = try JSONDecoder().decode(Document.self, from: Data(result.output.utf8)).completions[
            0]
        // One of the prompt and four of the steps before.
        #expect(completion.tokens.count == 5 && completion.finishReason == "cancelled")
    }

    @Test func `a second Ctrl-C ends the program at once`() throws {
        let result = try expectEnd(status: 130, "test fault") {
            try generate(fault: "slow-step@5", interruptCount: 2)
        }
        #expect(!result.errors.contains("stopped in the middle"))
    }

    @Test func `a thread of the CPU that stops for good ends the program with a sentence`() throws {
        // More threads than processors: none is left out because others use its processor.
        let threads = ProcessInfo.processInfo.activeProcessorCount + 1
        let result = try expectEnd(status: 1, "Error: a thread that computes the CPU's part stopped") {
            try generate(["--threads", "\(threads)"], fault: "cpu-lane-dies@5")
        }
        #expect(result.output.count > 5 && result.output.hasSuffix("\n"))
    }

    @Test func `a test fault that is none is refused`() throws {
        let result = try generate(fault: "slow-step@soon")
        #expect(result.status == 64)
        #expect(result.errors.contains("TANDEM_TEST_FAULT is slow-step@soon"))
    }

    // MARK: CPU and GPU together

    @Test(.enabled(if: hasGPU, "there is no GPU"))
    func `a thread of the CPU's part that stops for good ends the program`() throws {
        _ = try expectEnd(status: 1, "Error: a thread that computes the CPU's part stopped") {
            try balanced(fault: "cpu-lane-dies@5")
        }
    }

    @Test(.enabled(if: hasGPU, "there is no GPU"))
    func `a GPU that fails beside the CPU ends the program`() throws {
        _ = try expectEnd(status: 1, "CUDA_ERROR_ILLEGAL_ADDRESS") { try balanced(fault: "gpu-error@5") }
    }

    @Test(.enabled(if: hasGPU, "there is no GPU"))
    func `a GPU that fails while it computes alone ends the program`() throws {
        _ = try expectEnd(status: 1, "CUDA_ERROR_ILLEGAL_ADDRESS") {
            try Program.run(
                ["low-latency-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_", "--prompt-len"]
                    + ["32", "--gen-len", "32", "--per-layer-percent"]
                    + (0..<4).flatMap { _ in ["30", "70"] },
                fault: "gpu-error@5")
        }
    }

    @Test(.enabled(if: hasGPU, "there is no GPU"), arguments: [1, 2])
    func `Ctrl-C while the GPU waits for the CPU ends the program`(interruptCount: Int) throws {
        let sentence = interruptCount == 1 ? "stopped in the middle of a step" : "test fault"
        _ = try expectEnd(status: 130, sentence) {
            try balanced(fault: "slow-step@5", interruptCount: interruptCount)
        }
    }
}
