import CUDA
import Foundation
import Testing

struct LowLatencyCommandTests {
    private static let hasGPU = (try? CUDADriver.load().device()) != nil

    /// Refusals come before a GPU is looked for.
    @Test(
        arguments: [
            (["--per-layer-percent", "0", "100", "0", "100"], 1, "eight numbers"),
            (["--per-layer-percent", "60", "50", "0", "100", "0", "100", "0", "100"], 1, "60"),
            (["--cache-percent", "100"], 1, "two numbers"),
            (["--overlap", "perhaps"], 64, "perhaps"),
            (["--staging-slots", "1"], 64, "--staging-slots"),
            (["--debug-mode", "verbose"], 64, "breakdown"),
            (["--gen-len", "0"], 64, "--gen-len"),
            (["--cpu-cache-compute=perhaps"], 64, "--cpu-cache-compute"),
        ])
    func `a mistake in the placement is one sentence`(arguments: [String], status: Int, sentence: String)
        throws
    {
        for name in ["low-latency-opt", "low_latency_opt"] {
            let result = try Program.run(
                [name, "--model", "facebook/opt-125m", "--path", "_DUMMY_"] + arguments)
            #expect(result.status == Int32(status), "\(result.errors)")
            #expect(result.errors.contains(sentence), "\(result.errors)")
            #expect(result.output == "")
        }
    }

    @Test(.enabled(if: !hasGPU, "there is a GPU")) func `without a GPU it says what was looked for`() throws {
        let result = try Program.run(["low-latency-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_"])
        #expect(result.status == 1)
        #expect(result.errors.contains("no NVIDIA driver was found"))
        let placed = try Program.run([
            "generate", "--prompt", "Once", "--per-layer-percent", "0", "100", "0", "100", "0", "100", "0",
            "100",
        ])
        #expect(placed.status == 1)
        #expect(placed.errors.contains("needs a GPU"))
    }

    @Test(
        .enabled(if: hasGPU, "there is no GPU"),
        arguments: [
            ["100", "0", "100", "0", "100", "0", "100", "0"],
            ["0", "100", "0", "100", "0", "100", "0", "100"],
            ["30", "30", "30", "30", "30", "30", "30", "30"],
        ])
    func `the report says where everything lies and what each resource moved`(percent: [String]) throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "offload-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        let result = try Program.run(
            [
                "low-latency-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_", "--prompt-len", "64",
                "--gen-len", "4", "--offload-dir", folder.path, "--per-layer-percent",
            ] + percent)
        #expect(result.status == 0, "\(result.errors)")
        for line in ["self-attention", "peak GPU memory", "prefill latency", "GPU memory: "] {
            #expect(result.output.contains(line))
        }
        #expect(result.output.contains("PCIe to the GPU") == (percent[0] != "100"))
        #expect(result.output.contains("through disk") == (percent[0] == "30"))
        // Nothing is left of the offload file.
        #expect(((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).isEmpty)
    }

    @Test(.enabled(if: hasGPU, "there is no GPU"))
    func `a cache on disk is reported, and leaves nothing behind`() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "offload-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        func run(_ folder: String) throws -> Program.Result {
            try Program.run([
                "low-latency-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_", "--prompt-len", "64",
                "--gen-len", "4", "--offload-dir", folder, "--cache-percent", "50", "25",
            ])
        }
        let result = try run(folder.path)
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.contains("GPU 50 % (50.0 %, 6 of 12 heads) · CPU 25 % (25.0 %) · disk 25 %"))
        #expect(result.output.contains("through disk"))
        #expect(((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).isEmpty)
        let refused = try run("/dev/null/nowhere")
        #expect(refused.status == 1)
        #expect(refused.errors.contains("disk"), "\(refused.errors)")
    }

    @Test(.enabled(if: hasGPU, "there is no GPU"), arguments: [false, true])
    func `a cache in CPU memory passes through PCIe, unless the CPU computes on it`(onCPU: Bool) throws {
        let result = try Program.run(
            [
                "low-latency-opt", "--model", "facebook/opt-125m", "--path", "_DUMMY_", "--prompt-len", "64",
                "--gen-len", "4", "--cache-percent", "0", "100", "--per-layer-percent", "100", "0", "100",
                "0", "100", "0", "100", "0",
            ] + (onCPU ? ["--cpu-cache-compute"] : []))
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.contains("decode on the CPU, prefill on the GPU") == onCPU)
        #expect(result.output.contains("through PCIe to the GPU") != onCPU)
        #expect(result.output.contains("through CPU memory") == onCPU)
    }

    @Test(arguments: ["bench", "generate"])
    func `without a cache that a GPU would have to fetch the switch says that it does nothing`(
        command: String
    )
        throws
    {
        let workload =
            command == "bench"
            ? ["--model", "facebook/opt-125m", "--prompt-len", "4", "--gen-len", "2"]
            : ["--prompt", "Once", "--max-tokens", "2"]
        func text(_ arguments: [String]) throws -> String {
            let result = try Program.run([command, "--device", "cpu"] + workload + arguments)
            #expect(result.status == 0, "\(result.errors)")
            return result.output + result.errors
        }
        let sentence = "--cpu-cache-compute has no effect: the CPU computes everything"
        #expect(try text(["--cpu-cache-compute"]).contains(sentence))
        #expect(try !text(["--cpu-cache-compute", "no"]).contains(sentence))
    }

    @Test(.enabled(if: hasGPU, "there is no GPU")) func `the GPU writes what the CPU writes`() throws {
        func text(_ arguments: [String]) throws -> String {
            let result = try Program.run(
                ["generate", "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "40"]
                    + arguments)
            #expect(result.status == 0, "\(result.errors)")
            return result.output
        }
        #expect(try text(["--device", "gpu"]) == text(["--device", "cpu"]))
    }
}
