import Placement
import Testing

@testable import Engine
@testable import OPTModel

struct MachineReportTests {
    private func report(withGPU: Bool) -> MachineReport {
        var report = MachineReport(
            processor: MachineReport.Processor(name: "CPU", coreCount: 4, instructionSet: "avx2"),
            libraries: [])
        if withGPU {
            report.gpu = MachineReport.GPU(
                name: "GPU", computeCapability: "9.0", multiprocessorCount: 132, memoryByteCount: 1 << 35,
                freeByteCount: 1 << 34, driverVersion: nil, cudaVersion: "12.4")
        }
        return report
    }

    private func result(_ passed: Bool) -> GPUOperationResult {
        GPUOperationResult(operation: .linear, sizes: "", tolerance: 1e-3, passed: passed)
    }

    private func budget(gpu: Int, cpu: Int, disk: Int) -> MemoryBudget {
        MemoryBudget(gpuByteCount: gpu << 30, cpuByteCount: cpu << 30, diskByteCount: disk << 30)
    }

    @Test func `models fit into the GPU, need CPU memory, need the disk, or do not fit`() {
        let fits = ModelFit.published.map { ModelFit($0, in: budget(gpu: 16, cpu: 30, disk: 60)) }
        #expect(fits.map(\.model) == OPTConfiguration.publishedSizes.map { "opt-\($0)" })
        // In fp16: 13, 25, 60, 131 and 348 GB.
        #expect(
            fits.map(\.place)
                == [.gpu, .gpu, .gpu, .gpu, .gpu, .cpuMemory, .disk, .nowhere, .nowhere])
        for fit in fits {
            let sum = fit.gpuPercent + fit.cpuPercent + fit.diskPercent
            #expect(abs(sum - (fit.place == .nowhere ? 0 : 100)) < 1e-9)
        }
        #expect(fits[4].gpuPercent == 100)
        #expect(fits[5].gpuPercent > 20 && fits[5].diskPercent == 0)
    }

    @Test func `the verdict says what works and where models have room`() {
        var report = report(withGPU: true)
        report.models = ModelFit.published.map { ModelFit($0, in: budget(gpu: 16, cpu: 30, disk: 60)) }
        report.checkCount = 2
        report.checks = [result(true), result(true)]
        report.judge()
        #expect(report.isWell)
        #expect(
            report.verdict
                == "Everything works. OPT-125m to OPT-6.7b fit into the GPU; OPT-13b needs CPU memory too; "
                + "OPT-30b needs the disk too; OPT-66b and OPT-175b do not fit.")
    }

    @Test func `a failed check, a missing one and a broken GPU are not well`() {
        var failed = report(withGPU: true)
        failed.checkCount = 2
        failed.checks = [result(true), result(false)]
        failed.judge()
        #expect(!failed.isWell)
        #expect(failed.verdict.contains("1 operation of the GPU went wrong"))

        var stopped = report(withGPU: true)
        stopped.checkCount = 3
        stopped.checks = [result(true), result(false)]
        stopped.judge()
        #expect(!stopped.isWell)
        #expect(stopped.verdict.contains("1 check was not done"))

        var broken = report(withGPU: false)
        broken.isGPUBroken = true
        broken.gpuProblem = "the driver is too old"
        broken.judge()
        #expect(!broken.isWell)
        #expect(broken.verdict.contains("the driver is too old"))
    }

    @Test func `a machine without a GPU is well`() {
        var report = report(withGPU: false)
        report.models = ModelFit.published.map { ModelFit($0, inCPUMemory: 30 << 30) }
        report.judge()
        #expect(report.isWell)
        #expect(
            report.verdict
                == "There is no GPU here: Tandem computes on the CPU. OPT-125m to OPT-13b fit into CPU memory; "
                + "OPT-30b to OPT-175b do not fit.")
    }

    @Test func `the driver's release is found in its description of itself`() {
        let closed =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 24 22:55:48 UTC 2024\n"
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build"
        #expect(NVIDIADriver.release(in: closed) == "535.161.08")
        #expect(NVIDIADriver.release(in: open) == "570.86.15")
        #expect(NVIDIADriver.release(in: "GCC version") == nil)
    }
}
