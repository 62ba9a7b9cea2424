import TensorCore
import Testing

@testable import Placement

struct CostModelTests {
    /// Of a measured figure.
    private static let tolerance = 0.1

    private func expect(
        _ seconds: Double, measured: Double, _ name: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(
            abs(seconds / measured - 1) <= Self.tolerance, "\(name): \(seconds) s, measured \(measured) s",
            sourceLocation: sourceLocation)
    }

    private func latency(
        _ shape: ModelShape, _ request: PlacementRequest, batchSize: Int = 1
    ) -> LatencyPrediction {
        CostModel(shape, .standard(batchSize: batchSize)).latency(of: Placement(shape, request))
    }

    /// Nothing on the GPU, which computes so many percent of everything.
    private func balanced(_ percent: Double) throws -> PlacementRequest {
        try PlacementRequest(
            perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
            perLayerComputationPercent: [percent, percent, percent, percent])
    }

    // MARK: What was measured

    @Test func `steps with all on the GPU take what was measured`() throws {
        let all = try PlacementRequest.alike(100, 0)
        let sizes: [(ModelShape, Double)] = [
            (.opt1_3B, 0.854e-3), (.opt6_7B, 3.43e-3), (.opt13B, 6.81e-3), (.opt30B, 15.0e-3),
        ]
        for (shape, measured) in sizes {
            let step = latency(shape, all).decodeStep
            expect(step.seconds, measured: measured, "\(shape.hiddenSize) wide")
            #expect(step.waitedFor == .gpu && step.pcieSeconds == 0 && step.joinSeconds == 0)
        }
        for (batchSize, measured) in [(8, 4.18e-3), (16, 4.98e-3), (24, 5.46e-3)] {
            let step = latency(.opt6_7B, all, batchSize: batchSize).decodeStep
            expect(step.seconds, measured: measured, "batch \(batchSize)")
        }
    }

    @Test func `steps with streamed weights take what was measured`() throws {
        let none = try PlacementRequest.alike(0, 100)
        let some = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 70, 30, 70, 30])
        let cases: [(ModelShape, PlacementRequest, Double)] = [
            (.opt6_7B, none, 0.240), (.opt30B, none, 1.080), (.opt6_7B, some, 71.5e-3),
        ]
        for (shape, request, measured) in cases {
            let step = latency(shape, request).decodeStep
            expect(step.seconds, measured: measured, request.weightArguments)
            #expect(step.waitedFor == .pcie && step.pcieSeconds == step.seconds)
        }
        let disk = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 0, 0, 0, 0])
        let step = latency(.opt6_7B, disk).decodeStep
        expect(step.seconds, measured: 5.265, "weights on disk")
        #expect(step.waitedFor == .disk)
    }

    @Test func `the disk takes as long for what the CPU computes as for what is streamed`() throws {
        let streamed = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 50, 0, 50, 0])
        let computed = try PlacementRequest(
            perLayerWeightPercent: [100, 0, 100, 0, 50, 0, 50, 0],
            perLayerComputationPercent: [100, 100, 50, 50], cachePercent: [50, 50])
        let byGPU = latency(.opt6_7B, streamed)
        let byCPU = latency(.opt6_7B, computed)
        #expect(byCPU.decodeStep.waitedFor == .disk)
        #expect(byCPU.decodeStep.diskSeconds == byGPU.decodeStep.diskSeconds)
        #expect(byCPU.decodeStep.pcieSeconds == 0 && byCPU.decodeStep.cpuSeconds > 0)
        // Of what is streamed the ring holds some before prefill begins.
        #expect(byCPU.prefill.diskSeconds >= byGPU.prefill.diskSeconds)
    }

    @Test func `steps with a cache elsewhere take what was measured`() throws {
        let cases: [([Double], ClosedRange<Double>)] = [
            ([0, 100], 9.02e-3...9.02e-3), ([50, 50], 6.40e-3...6.40e-3), ([0, 0], 0.143...0.170),
        ]
        for (cache, measured) in cases {
            let seconds = latency(.opt6_7B, try .alike(100, 0, cache: cache)).decodeStep.seconds
            expect(seconds, measured: min(max(seconds, measured.lowerBound), measured.upperBound), "\(cache)")
        }
    }

    /// All on an H100.
    @Test func `steps over quantized weights take what was measured`() throws {
        var machine = HardwareProfile.h200
        machine.gpu?.memoryReadBytesPerSecond = 3.115e12
        let cases: [(ModelShape, bits: Int, positionCount: Int, milliseconds: Double)] = [
            (.opt1_3B, 4, 528, 0.68), (.opt6_7B, 4, 528, 1.86), (.opt30B, 4, 528, 7.98),
            (.opt66B, 4, 134, 15.4),
            (.opt6_7B, 8, 528, 3.51),
        ]
        for (shape, bits, positionCount, milliseconds) in cases {
            var shape = shape
            shape.quantization = Quantization(bits: bits)
            let workload = Workload(batchSize: 1, promptLength: positionCount, generationLength: 0)
            let step = CostModel(shape, workload, on: machine).decodeStep(
                Placement(shape, try .alike(100, 0)))
            #expect(abs(1e3 * step.seconds / milliseconds - 1) < 0.12, "\(shape.hiddenSize), \(bits) bits")
        }
    }

    @Test func `prefill takes what was measured`() throws {
        let all = try PlacementRequest.alike(100, 0)
        let none = try PlacementRequest.alike(0, 100)
        let disk = try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 0, 0, 0, 0])
        let cases: [(ModelShape, PlacementRequest, batchSize: Int, Double)] = [
            (.opt6_7B, all, 1, 0.019), (.opt30B, all, 1, 0.083), (.opt6_7B, all, 8, 0.144),
            (.opt6_7B, all, 24, 0.440), (.opt6_7B, none, 1, 0.231), (.opt30B, none, 1, 1.052),
            (.opt6_7B, try .alike(100, 0, cache: [0, 100]), 1, 0.064), (.opt6_7B, disk, 1, 4.9),
        ]
        for (shape, request, batchSize, measured) in cases {
            let seconds = latency(shape, request, batchSize: batchSize).prefill.seconds
            expect(seconds, measured: measured, "\(request.weightArguments) \(request.cacheArguments)")
        }
        // The ring's share of one streaming: 0.97 was measured.
        let weights = Placement(.opt6_7B, none).streamedByteCount(from: .cpu)
        let share = latency(.opt6_7B, none).prefill.seconds / (Double(weights) / 5.55e10)
        #expect(share > 0.95 && share < 0.98)
    }

    @Test func `6.7b out of CPU memory is balanced within what a bare model of it reached`() throws {
        let steps = try stride(from: 0.0, through: 100, by: 5).map {
            latency(.opt6_7B, try balanced($0)).decodeStep
        }
        let best = try #require(steps.map(\.seconds).min())
        #expect(best > 0.084 && best < 0.105)
        #expect(steps[0].seconds > 0.098 && steps[0].seconds < 0.156)
        #expect(steps[0].waitedFor == .cpu && steps[20].waitedFor == .pcie)
        let shares = stride(from: 0.0, through: 100, by: 5).map { $0 }
        let share = shares[try #require(steps.firstIndex { $0.seconds == best })]
        #expect(share >= 25 && share <= 40)
    }

    @Test func `the CPU alone takes what was measured, and eight sequences half as long again`() throws {
        func step(_ shape: ModelShape, batchSize: Int) throws -> Double {
            let model = CostModel(shape, .standard(batchSize: batchSize), on: .xeon)
            return model.decodeStep(Placement(shape, try allOnCPU)).seconds
        }
        expect(try step(.opt1_3B, batchSize: 1), measured: 25e-3, "1.3b")
        let ratio = try step(.opt1_3B, batchSize: 8) / step(.opt1_3B, batchSize: 1)
        #expect(ratio > 1.35 && ratio < 1.8)
        let model = CostModel(.opt6_7B, on: .xeon)
        let prefill = model.prefill(Placement(.opt6_7B, try allOnCPU))
        expect(prefill.seconds, measured: 4.6, "prefill of 6.7b")
        #expect(prefill.waitedFor == .cpu)
    }

    /// 125m on two cores whose memory gave 48 GB/s (AVX-512): medians of three runs.
    @Test func `a cache in 4 bits takes the CPU what was measured of it`() {
        var machine = HardwareProfile.xeon
        machine.processor.instructionSet = "avx512-vnni"
        machine.processor.coreCount = 2
        machine.processor.memoryReadBytesPerSecond = 4.8e10
        func milliseconds(positions: Int, compressesCache: Bool) -> Double {
            var shape = ModelShape.opt125M
            shape.hasQuantizedCache = compressesCache
            let workload = Workload(batchSize: 1, promptLength: positions, generationLength: 0)
            let model = CostModel(shape, workload, on: machine, threadCount: 2)
            return 1e3 * model.decodeStep(Placement(shape, .allOnCPU)).seconds
        }
        func cache(compressed: Bool) -> Double {
            milliseconds(positions: 1512, compressesCache: compressed)
                - milliseconds(positions: 28, compressesCache: compressed)
        }
        #expect(abs(cache(compressed: false) / 1.05 - 1) < 0.2)
        // 0.6 ms, of which some is what every position takes beside its elements.
        #expect(cache(compressed: true) > 0.25 && cache(compressed: true) < 0.6)
        // Where memory gives a core less than it can compute with, the bytes say it all.
        machine.processor.memoryReadBytesPerSecond = 1e10
        #expect(abs(cache(compressed: true) / (0.28125 * cache(compressed: false)) - 1) < 0.02)
        // A core that computes slower than memory reads is waited for.
        machine.processor.memoryReadBytesPerSecond = 4.8e10
        machine.processor.instructionSet = "portable"
        #expect(cache(compressed: true) > 1.5)
    }

    @Test func `fewer bits are fewer bytes to read, not fewer sums`() {
        func model(_ bits: Int, batchSize: Int) -> (decode: Double, prefill: Double) {
            var shape = ModelShape.opt1_3B
            shape.quantization = Quantization(bits: bits)
            let model = CostModel(shape, .standard(batchSize: batchSize), on: .xeon)
            let placement = Placement(shape, .allOnCPU)
            return (model.decodeStep(placement).seconds, model.prefill(placement).seconds)
        }
        let (fp16, packed) = (model(16, batchSize: 1), model(4, batchSize: 1))
        #expect(packed.prefill == fp16.prefill)
        #expect(packed.decode < 0.45 * fp16.decode)
        // What eight rows take more than one does not shrink with the weights.
        let more = (
            model(16, batchSize: 8).decode - fp16.decode, model(4, batchSize: 8).decode - packed.decode
        )
        #expect(abs(more.1 / more.0 - 1) < 1e-6)
    }

    private var allOnCPU: PlacementRequest {
        get throws {
            try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
                perLayerComputationPercent: [0, 0, 0, 0])
        }
    }

    // MARK: How it is put together

    @Test func `CPU and PCIe share memory until the shorter one ends, then the other is alone`() {
        let rates = CostModel.Rates(.h200, threadCount: 16)
        let (cpuRate, pcieRate) = (rates.cpuReadTogether, rates.uploadTogether)
        #expect(rates.cpuReadAlone > cpuRate && rates.uploadAlone > pcieRate)
        // One second together, then one alone.
        let longPCIe = rates.sharingMemory(
            cpuByteCount: cpuRate, pcieByteCount: pcieRate + rates.uploadAlone)
        #expect(abs(longPCIe.cpu - 1) < 1e-9 && abs(longPCIe.pcie - 2) < 1e-9)
        let longCPU = rates.sharingMemory(
            cpuByteCount: cpuRate + rates.cpuReadAlone, pcieByteCount: pcieRate)
        #expect(abs(longCPU.cpu - 2) < 1e-9 && abs(longCPU.pcie - 1) < 1e-9)
        // Alone from the begin.
        #expect(rates.sharingMemory(cpuByteCount: 0, pcieByteCount: rates.uploadAlone).pcie == 1)
        #expect(rates.sharingMemory(cpuByteCount: rates.cpuReadAlone, pcieByteCount: 0).cpu == 1)
    }

    @Test func `rates together that are above those alone are not believed`() {
        var odd = HardwareProfile.h200
        odd.together = HardwareProfile.Together(memoryReadBytesPerSecond: 9e11, uploadBytesPerSecond: 9e11)
        let rates = CostModel.Rates(odd, threadCount: 16)
        #expect(rates.cpuReadTogether == rates.cpuReadAlone)
        #expect(rates.uploadTogether == rates.uploadAlone)
    }

    @Test func `fewer threads than memory needs draw less, and leave PCIe more`() {
        let all = CostModel.Rates(.h200, threadCount: 16)
        let most = CostModel.Rates(.h200, threadCount: 15)
        let few = CostModel.Rates(.h200, threadCount: 7)
        #expect(most.cpuReadTogether == all.cpuReadTogether)
        #expect(few.cpuReadAlone == all.cpuReadAlone / 2)
        #expect(few.uploadTogether > all.uploadTogether && few.uploadTogether < all.uploadAlone)
    }

    @Test func `there is a join for each block of which the CPU has a part, and for no other`() throws {
        func joins(_ computation: [Double], batchSize: Int = 1) throws -> Double {
            let request = try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
                perLayerComputationPercent: computation)
            let step = latency(.opt6_7B, request, batchSize: batchSize).decodeStep
            return step.joinSeconds / CostModel.joinSeconds
        }
        #expect(try abs(joins([100, 100, 50, 50]) - 64) < 1e-9)
        #expect(try abs(joins([100, 100, 100, 50]) - 32) < 1e-9)
        #expect(try abs(joins([100, 0, 50, 50]) - 65) < 1e-9)
        #expect(try joins([100, 100, 100, 100]) == 0)
        // Rows beyond the first go over PCIe.
        #expect(try joins([100, 100, 50, 50], batchSize: 8) > 64)
        #expect(CostModel.joinSeconds <= 6e-6)
    }

    @Test func `the cache of the CPU's heads is read from CPU memory, that of the GPU's from its own`() throws
    {
        func step(_ promptLength: Int) throws -> StepCost {
            let workload = Workload(batchSize: 1, promptLength: promptLength, generationLength: 2)
            return CostModel(.opt6_7B, workload).decodeStep(Placement(.opt6_7B, try balanced(25)))
        }
        let (short, long) = (try step(1), try step(2001))
        let growth = 2000.0 * 32 * 2 * 4096 * 2  // positions, layers, keys and values, hidden size, bytes
        // PCIe is the shorter one, so that more to read is read alone.
        let cpuGrowth = 0.75 * growth / CostModel.Rates(.h200, threadCount: 16).cpuReadAlone
        #expect(abs((long.cpuSeconds - short.cpuSeconds) / cpuGrowth - 1) < 1e-6)
        let gpuGrowth = 0.25 * growth / CostModel.Rates(.h200, threadCount: 16).gpuRead
        #expect(abs((long.gpuSeconds - short.gpuSeconds) / gpuGrowth - 1) < 1e-6)
    }

    @Test func `a deeper ring is never slower, and one slot cannot be filled while it is read`() throws {
        let placements = [
            Placement(.opt6_7B, try .alike(0, 100)), Placement(.opt6_7B, try balanced(35)),
            Placement(.opt6_7B, try .alike(70, 30)),
        ]
        for placement in placements {
            let seconds = (1...6).map {
                CostModel(.opt6_7B, slotCount: $0).decodeStep(placement).seconds
            }
            #expect(seconds == seconds.sorted(by: >))
        }
        let one = CostModel(.opt6_7B, slotCount: 1).decodeStep(placements[0])
        expect(one.seconds, measured: 0.249, "--overlap 0")
        #expect(one.seconds > CostModel(.opt6_7B, slotCount: 2).decodeStep(placements[0]).seconds)
    }

    @Test func `logits wait for what the ring cannot hold of them`() throws {
        let request = try PlacementRequest(
            perLayerWeightPercent: [100, 0, 0, 100, 60, 40, 60, 40],
            perLayerComputationPercent: [100, 100, 60, 60])
        let placement = Placement(.opt6_7B, request)
        func step(_ slotCount: Int) -> StepCost {
            CostModel(.opt6_7B, slotCount: slotCount).decodeStep(placement)
        }
        // The token table is 3.07 slots.
        let late = Double(411_828_224 - (128 << 20)) / 5.55e10
        #expect(step(5).seconds < step(2).seconds)
        #expect(abs(step(2).seconds - step(5).seconds - late) < 2e-4)
    }

    @Test func `a batch over 32 reads the CPU's weights twice, a prompt over 2048 rows streams twice`() throws
    {
        let rates = CostModel.Rates(.h200, threadCount: 16)
        let few = latency(.opt6_7B, try balanced(0), batchSize: 32).decodeStep
        let many = latency(.opt6_7B, try balanced(0), batchSize: 33).decodeStep
        let weights = 12_884_901_888.0 + 411_828_224
        // One row more has its own cache, and its own arithmetic.
        let more = weights + 528.0 * 32 * 2 * 4096 * 2
        let growth =
            more / rates.cpuReadAlone + weights / rates.cpuFewRowsOperations
            + 65 * CostModel.cpuRowSecondsBesideGPU
        #expect(abs((many.cpuSeconds - few.cpuSeconds) / growth - 1) < 1e-6)
        func pcie(_ promptLength: Int) throws -> Double {
            let workload = Workload(batchSize: 1, promptLength: promptLength, generationLength: 32)
            return CostModel(.opt6_7B, workload).prefill(Placement(.opt6_7B, try .alike(0, 100))).pcieSeconds
        }
        let streaming =
            Double(Placement(.opt6_7B, try .alike(0, 100)).streamedByteCount(from: .cpu)) / 5.55e10
        #expect(try abs(pcie(2049) - pcie(2048) - streaming) < 1e-9)
    }

    @Test func `prefill gets once what the CPU computes in decode steps, as fast as was measured`() throws {
        for (percent, measured) in [(0.0, 0.286), (20, 0.276), (25, 0.272), (30, 0.268), (35, 0.266)] {
            let prefill = latency(.opt6_7B, try balanced(percent)).prefill
            expect(prefill.seconds, measured: measured, "\(percent) %")
            #expect(prefill.waitedFor == .pcie)
        }
    }

    /// A planner's choice, what CPU memory gave around the run, and the median of its settled steps.
    private struct Joined {
        var shape: ModelShape
        var batchSize: Int
        var weights: [Double]
        var computation: [Double]
        var cache: Double
        /// GB/s: the CPU alone, and beside copies; these.
        var rates: (alone: Double, together: Double, upload: Double)
        var milliseconds: Double
    }

    @Test func `steps of both lanes take what was measured, at the rates of their run`() throws {
        // Benchmarks/results/2026-11-27-sweeps-h100.json, and what the planner chose otherwise in 2026-11-27-sweeps-again-h100.json:
        // medians of two or three runs.
        let cases = [
            Joined(
                shape: .opt6_7B, batchSize: 1, weights: [0, 100, 7.51, 92.49, 18.75, 81.25, 1.17, 98.83],
                computation: [100, 36.79, 37.5, 36.72], cache: 37.5, rates: (134, 110.5, 45.7),
                milliseconds: 89.8),
            Joined(
                shape: .opt6_7B, batchSize: 1, weights: [0, 100, 31.44, 68.56, 25, 75, 71.09, 28.91],
                computation: [100, 67.85, 62.5, 71.09], cache: 62.5, rates: (137, 117, 46.4),
                milliseconds: 46.1),
            Joined(
                shape: .opt1_3B, batchSize: 8, weights: [0, 100, 4.58, 95.42, 6.25, 93.75, 0, 100],
                computation: [100, 52.71, 50, 50.78], cache: 50, rates: (125.8, 113.6, 51.3),
                milliseconds: 29.3),
            Joined(
                shape: .opt6_7B, batchSize: 8, weights: [0, 100, 2.67, 97.33, 46.88, 53.12, 0, 100],
                computation: [100, 53.47, 53.13, 53.52], cache: 53.13, rates: (136.2, 116, 48.5),
                milliseconds: 105.6),
            Joined(
                shape: .opt6_7B, batchSize: 8, weights: [0, 100, 1.15, 98.85, 68.75, 31.25, 35.16, 64.84],
                computation: [100, 45.7, 68.75, 71.88], cache: 68.75, rates: (139.2, 117.4, 48.8),
                milliseconds: 69.8),
            Joined(
                shape: .opt6_7B, batchSize: 8, weights: [0, 100, 3.06, 96.94, 21.88, 78.12, 0.78, 99.22],
                computation: [100, 50.29, 50, 50.39], cache: 50, rates: (138.5, 122.5, 48.3),
                milliseconds: 108.8),
            Joined(
                shape: .opt1_3B, batchSize: 1, weights: [0, 100, 3.82, 96.18, 43.75, 56.25, 0.78, 99.22],
                computation: [100, 17.95, 100, 17.97], cache: 100, rates: (125.2, 98.2, 43.3),
                milliseconds: 19.4),
            Joined(
                shape: .opt6_7B, batchSize: 1, weights: [0, 100, 6.37, 93.63, 100, 0, 33.59, 66.41],
                computation: [100, 53.47, 100, 53.52], cache: 100, rates: (132, 108, 44),
                milliseconds: 45.3),
        ]
        for joined in cases {
            var machine = HardwareProfile.h200
            machine.processor.memoryReadBytesPerSecond = joined.rates.alone * 1e9
            machine.together = HardwareProfile.Together(
                memoryReadBytesPerSecond: joined.rates.together * 1e9,
                uploadBytesPerSecond: joined.rates.upload * 1e9)
            let request = try PlacementRequest(
                perLayerWeightPercent: joined.weights, perLayerComputationPercent: joined.computation,
                cachePercent: [joined.cache, 100 - joined.cache])
            let model = CostModel(
                machine, .standard(batchSize: joined.batchSize), threadCount: 14,
                staging: CostModel.Staging(
                    slotCount: 4, slotByteCount: joined.shape.headCount * joined.shape.bytesPerHead))
            let step = model.decodeStep(Placement(joined.shape, request))
            expect(
                step.seconds, measured: joined.milliseconds / 1e3,
                "\(joined.shape.hiddenSize) wide, batch \(joined.batchSize)")
        }
    }

    @Test func `the floor is what a hand counts, and no prediction is below it`() throws {
        let model = CostModel(.opt6_7B)
        let placement = Placement(.opt6_7B, try balanced(35))
        // Layers, token table, and the cache's 65.6 % of 528 positions: 11 of 32 heads are the GPU's.
        let cache = 528.0 * 32 * 2 * 4096 * 2
        let host = 12_884_901_888 + 411_828_224 + cache * 21 / 32
        let floor = model.floor(of: placement)
        #expect(abs(floor.hostMemorySeconds - host / 1.445e11) < 1e-9)
        #expect(abs(floor.gpuMemorySeconds - cache * 11 / 32 / 4.55e12) < 1e-9)
        for percent in stride(from: 0.0, through: 100, by: 5) {
            for weights in stride(from: 0.0, through: percent, by: 20) {
                let request = try PlacementRequest(
                    perLayerWeightPercent: [0, 100, weights, 100 - weights, weights, 100 - weights]
                        + [weights, 100 - weights],
                    perLayerComputationPercent: [100, percent, percent, percent])
                let placement = Placement(.opt6_7B, request)
                #expect(model.decodeStep(placement).seconds > model.floor(of: placement).seconds)
            }
        }
        let alone = CostModel(.opt6_7B, on: .xeon).floor(of: Placement(.opt6_7B, try allOnCPU))
        #expect(abs(alone.seconds - (12_884_901_888 + 411_828_224 + cache) / 1.1e11) < 1e-9)
        #expect(alone.gpuMemorySeconds == 0)
    }

    @Test func `latency is prefill and a step for every token but the first`() throws {
        let prediction = latency(.opt6_7B, try .alike(0, 100))
        #expect(prediction.decodeStepCount == 31)
        #expect(prediction.seconds == prediction.prefill.seconds + 31 * prediction.decodeStep.seconds)
        #expect(Workload(batchSize: 1, promptLength: 1, generationLength: 0).decodeStepCount == 0)
    }
}
