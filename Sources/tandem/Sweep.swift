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
/// Machines drift, and the least of many figures that vary is less than the best point's own. So the shares are taken in an
/// order that jumps; then the best of them and the planner's choice run again in turns, and only these runs are compared.
/// What CPU memory gives is measured around every run, and predictions are made from that.
struct Sweep {
    let model: String
    let modelArguments: ModelArguments
    let placement: PlacementArguments
    let workload: WorkloadArguments
    let pointCount: Int
    let roundCount: Int
    let isQuiet: Bool

    /// Points that run again.
    private static let finalistCount = 3

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
        let planner = try await request.planner(
            for: reference.configuration.quantized(
                placement.compression.quantization, cache: placement.compression.compressesCache))
        let percents = (0..<pointCount).map { 100 * Double($0) / Double(pointCount - 1) }
        var report = SweepReport(
            model: try reference.configuration.name, workload: workload, gpuMemory: placement.gpuMemory,
            plan: try planner.plan(), points: try planner.sweep(computationPercents: percents))
        for (done, index) in Self.order(pointCount).enumerated() {
            log("\(done + 1) of \(pointCount): the GPU computes \(percents[index].plain) %")
            try await measure(&report.points[index], planner)
        }
        let finalists = report.fastestPoints(Self.finalistCount)
        for round in 1...roundCount {
            log("round \(round) of \(roundCount): the planner's choice")
            report.choice.measurements.append(
                try await measure(nil, planner) { profile, _ in try planner.on(profile).plan().prediction })
            for index in finalists {
                log("round \(round) of \(roundCount): the GPU computes \(percents[index].plain) %")
                try await measure(&report.points[index], planner)
            }
        }
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

    private func measure(_ point: inout SweepReport.Point, _ planner: PlacementPlanner) async throws {
        guard let placement = point.placement else { return }
        point.measurements.append(
            try await measure(placement.request, planner) { profile, engine in
                engine.prediction(for: planner.workload, on: profile)
            })
    }

    /// - Parameters:
    ///   - asked: nil for what is chosen by itself.
    ///   - predict: what is expected at the rates of this run.
    private func measure(
        _ asked: PlacementRequest?, _ planner: PlacementPlanner,
        predict: (HardwareProfile, Engine) throws -> LatencyPrediction?
    ) async throws -> SweepReport.Measurement {
        var options = try placement.engineOptions(modelArguments.engineOptions)
        options.expectedWorkload = planner.workload
        options.placement = asked
        let engine = try await modelArguments.load(
            model, defaultPath: ModelReference.randomWeightsPath, options: options, isQuiet: true)
        let profiler = HardwareProfiler(engine)
        let before = try await profiler.hostRatesBesideGPU()
        let report = try await workload.generate(on: engine)
        let after = try await profiler.hostRatesBesideGPU()
        var profile = planner.hardware
        if let before, let after { profile.take(before.mean(with: after)) }
        return SweepReport.Measurement(
            stepSeconds: report.stepSeconds, prefillSeconds: report.prefillSeconds, on: profile,
            predicted: try predict(profile, engine)?.decodeStep.seconds)
    }

    private func log(_ line: String) {
        if !isQuiet { writeToStandardError(line + "\n") }
    }
}

/// What a sweep found. Times are milliseconds a token, but for prefill's seconds.
struct SweepReport: Encodable {
    struct Measurement: Encodable {
        /// Of the second half of the steps: by then threads and boundary have found their shares.
        var median: Double
        /// Of all steps.
        var mean: Double
        var prefillSeconds: Double
        /// Prefill and all steps: what the planner makes as short as it can.
        var totalSeconds: Double { prefillSeconds + mean * Double(stepCount) / 1e3 }
        var stepCount: Int
        /// At the rates of this run; nil where the cost model does not know what computes.
        var predicted: Double?
        /// What CPU memory gave around the run: to the CPU alone, to it beside copies, and to these.
        var cpuBytesPerSecond: Double
        var cpuTogetherBytesPerSecond: Double?
        var uploadTogetherBytesPerSecond: Double?

        init(
            stepSeconds: [Double], prefillSeconds: Double, on profile: HardwareProfile,
            predicted seconds: Double?
        ) {
            let settled = stepSeconds.suffix((stepSeconds.count + 1) / 2)
            median = (settled.median ?? 0) * 1e3
            mean = stepSeconds.reduce(0, +) / Double(max(1, stepSeconds.count)) * 1e3
            stepCount = stepSeconds.count
            self.prefillSeconds = prefillSeconds
            predicted = seconds.map { $0 * 1e3 }
            cpuBytesPerSecond = profile.processor.memoryReadBytesPerSecond
            cpuTogetherBytesPerSecond = profile.together?.memoryReadBytesPerSecond
            uploadTogetherBytesPerSecond = profile.together?.uploadBytesPerSecond
        }
    }

    struct Point: Encodable {
        var percent: Double
        /// nil where it has no room.
        var placement: Placement?
        /// With the rates that were remembered.
        var predicted: Double?
        /// The sweep's run, then those of the rounds.
        var measurements: [Measurement] = []

        private enum CodingKeys: CodingKey { case percent, predicted, measurements }

        /// Of all runs.
        var median: Double? { measurements.map(\.median).median }
        /// Of the rounds' runs alone: the sweep's own was among the best of many.
        var finalMedian: Double? { measurements.dropFirst().map(\.median).median }
        var finalTotal: Double? { measurements.dropFirst().map(\.totalSeconds).median }
    }

    struct Choice: Encodable {
        /// The GPU's share of the weights' bytes that are computed with in a step.
        var percent: Double
        /// As one would type it.
        var arguments: String
        var predicted: Double
        var measurements: [Measurement] = []

        var median: Double? { measurements.map(\.median).median }
        var total: Double? { measurements.map(\.totalSeconds).median }
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
            + (gpuMemory.map { ", \($0.byteCount.byteSize()) of GPU memory" } ?? "")
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

    /// The indices of the points that took least in their first run.
    func fastestPoints(_ count: Int) -> [Int] {
        let measured = points.indices.filter { !points[$0].measurements.isEmpty }
        return Array(
            measured.sorted { points[$0].measurements[0].median < points[$1].measurements[0].median }
                .prefix(count))
    }

    /// Of the points that ran again, the best.
    var best: Point? {
        points.filter { $0.finalMedian != nil }.min { $0.finalMedian! < $1.finalMedian! }
    }

    var chart: SweepChart {
        SweepChart(
            title: title,
            points: points.map {
                SweepChart.Point(
                    percent: $0.percent, measured: $0.median,
                    predicted: $0.measurements.compactMap(\.predicted).median ?? $0.predicted)
            },
            choice: choice.median.map {
                SweepChart.Choice(
                    percent: choice.percent, measured: $0,
                    predicted: choice.measurements.compactMap(\.predicted).median ?? choice.predicted)
            },
            floor: floor)
    }

    var text: String {
        var lines = [
            title, "",
            "  GPU %    median      mean   prefill predicted  measured/predicted   CPU alone  CPU + PCIe, GB/s",
        ]
        for point in points {
            if point.measurements.isEmpty { lines.append(point.percent.plain.leftPadded(7) + "   no room") }
            lines += point.measurements.map { row(point.percent.plain, $0) }
        }
        lines += choice.measurements.map { row("planner", $0) }
        lines.append("")
        lines.append("the planner's choice: \(choice.arguments)")
        func distance(_ value: Double, to least: Double) -> String {
            let behind = 100 * (value / least - 1)
            return "\(abs(behind).formatted(decimals: 1)) % " + (behind < 0 ? "ahead of" : "behind")
        }
        if let best, let least = best.finalMedian, let median = choice.median {
            lines.append(
                "run in turns: \(median.formatted(decimals: 2)) ms a token, \(distance(median, to: least)) the best point, "
                    + "\(least.formatted(decimals: 2)) ms at \(best.percent.plain) %; "
                    + "the floor is \(floor.formatted(decimals: 2)) ms")
        }
        if let least = points.compactMap(\.finalTotal).min(), let total = choice.total {
            lines.append(
                "prefill and all steps: \(total.formatted(decimals: 3)) s, \(distance(total, to: least)) the best point's "
                    + "\(least.formatted(decimals: 3)) s")
        }
        let off = (points.flatMap(\.measurements) + choice.measurements).compactMap { measurement in
            measurement.predicted.map { 100 * abs(measurement.median / $0 - 1) }
        }
        if let median = off.median {
            lines.append(
                "predictions at the rates of each run are off by \(median.formatted(decimals: 1)) % (median), "
                    + "\(off.max()!.formatted(decimals: 1)) % at most")
        }
        return (lines + [""] + chart.terminalLines()).joined(separator: "\n") + "\n"
    }

    private func row(_ name: String, _ measurement: Measurement) -> String {
        func gigabytes(_ rate: Double) -> String { (rate / 1e9).formatted(decimals: 0) }
        var line = name.leftPadded(7) + measurement.median.formatted(decimals: 2).leftPadded(10)
        line += measurement.mean.formatted(decimals: 2).leftPadded(10)
        line += measurement.prefillSeconds.formatted(decimals: 3).leftPadded(10)
        line += (measurement.predicted?.formatted(decimals: 2) ?? "").leftPadded(10)
        line += (measurement.predicted.map { (measurement.median / $0).formatted(decimals: 3) } ?? "")
            .leftPadded(20)
        line += gigabytes(measurement.cpuBytesPerSecond).leftPadded(12)
        if let cpu = measurement.cpuTogetherBytesPerSecond,
            let upload = measurement.uploadTogetherBytesPerSecond
        {
            line += "\(gigabytes(cpu)) + \(gigabytes(upload))".leftPadded(12)
        }
        return line
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
