import ArgumentParser
import Engine
import FoundationEssentials
import OPTModel
import Placement
import SystemPackage

/// What a sweep goes over.
enum SweptQuantity: String, ExpressibleByArgument, CaseIterable {
    /// The GPU's share of the computation, the same of attention, MLP and output embedding.
    case computation
}

/// Runs a workload at one share of the computation after another, and with the planner's own choice.
///
/// Machines drift. So the shares are taken in an order that jumps, and the planner's choice is measured at the beginning, in
/// the middle and at the end.
struct Sweep {
    let model: String
    let modelArguments: ModelArguments
    let placement: PlacementArguments
    let workload: WorkloadArguments
    let pointCount: Int
    let isQuiet: Bool

    func run() async throws -> SweepReport {
        guard try placement.request == nil, placement.placement != .streamed else {
            throw ValidationError("--sweep chooses the placements; leave --placement and the percentages out")
        }
        guard HardwareProfile.Machine.current.gpuName != nil else {
            throw EngineError(
                .noGPU, "--sweep compares what a GPU and the CPU do together, and there is no GPU")
        }
        InterruptWatcher.install()
        var request = PlanningRequest(workload.workload)
        request.gpuMemoryByteCount = placement.gpuMemory?.byteCount
        request.cpuMemoryByteCount = placement.cpuMemory?.byteCount
        request.stagingSlotCount = placement.stagingSlots
        request.offloadFolder = placement.offloadDir.map { FilePath($0) }
        request.threadCount = modelArguments.threads
        request.measuresMachine = !workload.rememberedLimits
        let reference = try modelArguments.reference(model, defaultPath: ModelReference.randomWeightsPath)
        let planner = try await request.planner(for: reference.configuration)
        let percents = (0..<pointCount).map { 100 * Double($0) / Double(pointCount - 1) }
        let plan = try planner.plan()
        var report = SweepReport(
            model: try reference.configuration.name, workload: workload, gpuMemory: placement.gpuMemory,
            plan: plan, points: try planner.sweep(computationPercents: percents))
        try await measureChoice(&report)
        for (done, index) in Self.order(pointCount).enumerated() {
            guard let placement = report.points[index].placement else { continue }
            log("\(done + 1) of \(pointCount): the GPU computes \(percents[index].plain) %")
            report.points[index].measurement = try await measure(placement.request)
            if done == pointCount / 2 { try await measureChoice(&report) }
        }
        try await measureChoice(&report)
        return report
    }

    /// Points in an order in which neighbours are far from each other.
    static func order(_ count: Int) -> [Int] {
        func place(_ index: Int) -> Double {
            let turns = Double(index) * 0.618_033_988_75
            return turns - turns.rounded(.down)
        }
        return (0..<count).sorted { place($0) < place($1) }
    }

    private func measureChoice(_ report: inout SweepReport) async throws {
        log("the planner's choice")
        report.choice.measurements.append(try await measure(nil))
    }

    /// - Parameter asked: nil for what is chosen by itself.
    private func measure(_ asked: PlacementRequest?) async throws -> SweepReport.Measurement {
        var options = try placement.engineOptions(modelArguments.engineOptions)
        options.expectedWorkload = workload.workload
        options.placement = asked
        let engine = try await modelArguments.load(
            model, defaultPath: ModelReference.randomWeightsPath, options: options, isQuiet: true)
        return SweepReport.Measurement(try await workload.generate(on: engine))
    }

    private func log(_ line: String) {
        if !isQuiet { writeToStandardError(line + "\n") }
    }
}

/// What a sweep found. Times are milliseconds a token, but for prefill's seconds.
struct SweepReport: Encodable {
    struct Measurement: Encodable {
        var median: Double
        var mean: Double
        var prefillSeconds: Double

        init(_ report: GenerationReport) {
            median = (report.stepSeconds(quantile: 0.5) ?? 0) * 1e3
            mean = report.decodeSeconds / Double(max(1, report.stepSeconds.count)) * 1e3
            prefillSeconds = report.prefillSeconds
        }
    }

    struct Point: Encodable {
        var percent: Double
        /// nil where it has no room.
        var placement: Placement?
        var predicted: Double?
        var measurement: Measurement?

        private enum CodingKeys: CodingKey { case percent, predicted, measurement }
    }

    struct Choice: Encodable {
        /// The GPU's share of the weights' bytes that are computed with in a step.
        var percent: Double
        /// As one would type it.
        var arguments: String
        var predicted: Double
        var measurements: [Measurement] = []

        /// Of all runs.
        var median: Double { measurements.map(\.median).sorted()[measurements.count / 2] }
    }

    var model: String
    var title: String
    var points: [Point]
    var choice: Choice
    /// What no schedule goes below with this choice's weights where they are.
    var floor: Double

    init(
        model: String, workload: WorkloadArguments, gpuMemory: MemorySize?, plan: PlacementPlan,
        points: [PlacementPlanner.SweepPoint]
    ) {
        self.model = model
        title =
            "\(model), batch \(workload.batchSize), prompt \(workload.promptLen), generate \(workload.genLen)"
            + (gpuMemory.map { ", \($0.byteCount.gibibytes()) GiB of GPU memory" } ?? "")
        self.points = points.map {
            Point(
                percent: $0.computationPercent, placement: $0.placement,
                predicted: $0.prediction.map { $0.decodeStep.seconds * 1e3 })
        }
        let placement = plan.placement
        let kinds: [LayerKind] = [.outputEmbedding, .attention, .mlp]
        let byteCount = kinds.reduce(0) { $0 + placement.byteCount($1, 0..<placement[$1].count) }
        choice = Choice(
            percent: 100 - 100 * Double(placement.cpuComputedByteCount) / Double(byteCount),
            arguments: [
                plan.request.weightArguments, plan.request.computationArguments, plan.request.cacheArguments,
                "--threads \(plan.threadCount)",
            ].filter { !$0.isEmpty }.joined(separator: " "),
            predicted: plan.prediction.decodeStep.seconds * 1e3)
        floor = plan.floor.seconds * 1e3
    }

    var best: Point? {
        points.filter { $0.measurement != nil }.min { $0.measurement!.median < $1.measurement!.median }
    }

    var chart: SweepChart {
        SweepChart(
            title: title,
            points: points.map {
                SweepChart.Point(
                    percent: $0.percent, measured: $0.measurement?.median, predicted: $0.predicted)
            },
            choice: choice.measurements.isEmpty
                ? nil
                : SweepChart.Choice(
                    percent: choice.percent, measured: choice.median, predicted: choice.predicted),
            floor: floor)
    }

    var text: String {
        var lines = [title, "", "  GPU %    median      mean   prefill predicted  measured/predicted"]
        func row(_ name: String, _ measurement: Measurement, _ predicted: Double?) -> String {
            var line = name.leftPadded(7) + measurement.median.formatted(decimals: 2).leftPadded(10)
            line += measurement.mean.formatted(decimals: 2).leftPadded(10)
            line += measurement.prefillSeconds.formatted(decimals: 3).leftPadded(10)
            if let predicted {
                line += predicted.formatted(decimals: 2).leftPadded(10)
                line += (measurement.median / predicted).formatted(decimals: 3).leftPadded(20)
            }
            return line
        }
        for point in points {
            if let measurement = point.measurement {
                lines.append(row(point.percent.plain, measurement, point.predicted))
            } else {
                lines.append(point.percent.plain.leftPadded(7) + "   no room")
            }
        }
        for measurement in choice.measurements {
            lines.append(row("planner", measurement, choice.predicted))
        }
        lines.append("")
        lines.append("the planner's choice: \(choice.arguments)")
        if let best, let measurement = best.measurement, !choice.measurements.isEmpty {
            let behind = 100 * (choice.median / measurement.median - 1)
            lines.append(
                "\(choice.median.formatted(decimals: 2)) ms a token, \(abs(behind).formatted(decimals: 1)) % "
                    + (behind < 0 ? "ahead of" : "behind")
                    + " the best point, \(measurement.median.formatted(decimals: 2)) ms at \(best.percent.plain) %; "
                    + "the floor is \(floor.formatted(decimals: 2)) ms")
        }
        return (lines + [""] + chart.terminalLines()).joined(separator: "\n") + "\n"
    }

    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }
}

extension Double {
    /// Without a needless ".0".
    fileprivate var plain: String { self == rounded() ? String(Int(self)) : formatted(decimals: 1) }
}

extension String {
    fileprivate func leftPadded(_ width: Int) -> String {
        String(repeating: " ", count: max(0, width - count)) + self
    }
}
