import ArgumentParser
import Engine
import Placement
import Testing

@testable import tandem

struct SweepReportTests {
    private static let profile = HardwareProfile(
        gpu: .init(
            name: "GPU", memoryByteCount: 80 << 30, multiprocessorCount: 132, driverVersion: nil,
            rates: .init(memoryRead: 3e12, upload: 5.4e10, download: 5.4e10)),
        processor: .init(
            name: "CPU", coreCount: 16, instructionSet: "avx512", memoryReadBytesPerSecond: 1.3e11),
        diskReadBytesPerSecond: nil,
        together: .init(memoryReadBytesPerSecond: 1.1e11, uploadBytesPerSecond: 4.6e10), date: "")

    /// Three shares of a sweep of a small budget, and what the planner would choose.
    private static func report() throws -> SweepReport {
        let shape = ModelShape(
            layerCount: 32, headCount: 32, headDimension: 128, hiddenSize: 4096, feedForwardSize: 16384,
            vocabularySize: 50272)
        let workload = try WorkloadArguments.parse(["--gen-len", "14"])
        var working = WorkingMemory()
        working.cachePositionCount = 526
        working.stagingSlotCount = 4
        working.stagingSlotByteCount = 100 << 20
        let planner = PlacementPlanner(
            shape: shape,
            budget: MemoryBudget(gpuByteCount: 8 << 30, cpuByteCount: 100 << 30, diskByteCount: 1 << 40),
            working: working, hardware: profile, workload: workload.workload)
        return SweepReport(
            model: "opt-6.7b", workload: workload, gpuMemory: nil, plan: try planner.plan(),
            points: try planner.sweep(computationPercents: [0, 50, 100]))
    }

    private static func measurement(_ milliseconds: [Double], predicted: Double? = 50)
        -> SweepReport.Measurement
    {
        SweepReport.Measurement(
            stepSeconds: milliseconds.map { $0 / 1e3 }, prefillSeconds: 0.2, on: profile,
            predicted: predicted.map { $0 / 1e3 })
    }

    @Test func `the first steps, in which shares are still sought, do not count`() {
        let measurement = Self.measurement([900, 500, 70, 60, 50, 52])
        #expect(abs(measurement.median - 52) < 1e-9)
        #expect(abs(measurement.mean - 1632.0 / 6) < 1e-9)
    }

    @Test func `the best share is the best of those that ran again, and its first run does not count`() throws
    {
        var report = try Self.report()
        // The least by chance, the truly best, and one that did not run again.
        report.points[0].measurements = [50, 60, 61, 62].map { Self.measurement([$0]) }
        report.points[1].measurements = [55, 56, 55, 54].map { Self.measurement([$0]) }
        report.points[2].measurements = [Self.measurement([53])]
        report.choice.measurements = [57, 58, 56.1].map { Self.measurement([$0]) }
        #expect(report.fastestPoints(2) == [0, 2])
        #expect(report.best?.percent == 50)
        #expect(report.best?.finalMedian.map { abs($0 - 55) < 1e-9 } == true)
        let text = report.text
        #expect(text.contains("57.00 ms a token, 3.6 % behind the best point, 55.00 ms at 50 %"), "\(text)")
        #expect(
            text.contains("prefill and all steps: 0.257 s, 0.8 % behind the best point's 0.255 s"), "\(text)")
        #expect(text.contains("off by") && text.contains("24.0 % at most"), "\(text)")
    }

    @Test func `a sweep in which nothing had room says so`() throws {
        var report = try Self.report()
        for index in report.points.indices { report.points[index].placement = nil }
        #expect(report.best == nil)
        #expect(report.text.contains("no room"))
    }
}
