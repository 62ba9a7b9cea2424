import Checkpoints
import HostRuntime
import Placement
import Synchronization
import Testing

@testable import OPTModel

/// Where what fails is computed.
enum FailureCases {
    /// Every block computed by both, all weights streamed; the cache's attention alone computed by the CPU; both, with
    /// weights and cache on every tier.
    enum Part: CaseIterable { case everyBlock, cacheAttention, fromDisk }
    /// A failed side is noticed, and everything has ended, within so long.
    static let limit = Duration.seconds(2)

    static func request(_ part: Part) throws -> PlacementRequest {
        switch part {
        case .everyBlock:
            try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
                perLayerComputationPercent: [50, 50, 50, 50], cachePercent: [50, 50])
        case .cacheAttention:
            try PlacementRequest(
                perLayerPercent: [50, 50, 50, 50, 50, 50, 50, 50], cachePercent: [0, 100])
        case .fromDisk:
            try CPUDiskCases.Case(weights: [20, 30], cache: [0, 30], computation: 60, computesCache: true)
                .request
        }
    }

    /// Decodes greedily until a fault in the third step, and returns the error and how long the step took.
    static func decode(_ decoder: Decoder, _ prompt: [Int32]) throws -> (error: ModelError?, Duration) {
        let state = try decoder.makeState(capacities: [prompt.count + 8])
        func choose(_ sequence: Int, _ output: LaneOutput) {
            if case .logits(let logits) = output {
                state.nextTokens[0] = Int32(logits.indices.max { logits[$0] < logits[$1] }!)
            }
        }
        _ = try decoder.prefill([prompt], state: state, isCancelled: Atomic<Bool>(false), choose)
        state.isActive[0] = true
        for _ in 0..<2 { try decoder.step(state, choose) }
        let start = ContinuousClock.now
        do {
            try decoder.step(state, choose)
            return (nil, start.duration(to: .now))
        } catch {
            return (error, start.duration(to: .now))
        }
    }
}

extension EmulatedGPUTests {
    /// A side that fails for good in the middle of a step, on the emulated GPU.
    @Suite(.serialized) struct FailureTests {
        private func model(_ part: FailureCases.Part, _ fault: TestFault) throws -> LoadedModel {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            // More threads than processors: none is left out because others use its processor.
            let model = try LoadedModel(
                golden.folder, onGPU: try FailureCases.request(part), context: try EmulatedGPU.context(),
                cpu: LoadedModel.CPUPart(
                    workerCount: WorkerPool.availableProcessorCount + 1,
                    computesCache: part == .fromDisk ? true : nil))
            try #require(model.gpuLane).testFault = fault
            return model
        }

        private func concurrently(_ body: () throws -> Void) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try body()
        }

        private let prompt: [Int32] = [2, 5, 7]

        @Test(
            arguments: [
                (.everyBlock, false), (.everyBlock, true), (.cacheAttention, false), (.fromDisk, false),
            ]
                as [(FailureCases.Part, Bool)])
        func `a thread of the CPU's part that stops for good ends the step within two seconds`(
            part: FailureCases.Part, isRecorded: Bool
        ) throws {
            try concurrently {
                func fail() throws -> (LoadedModel, ModelError?, Duration) {
                    let model = try self.model(part, TestFault(.cpuLaneDies, step: 3))
                    if isRecorded { _ = try model.gpuLane?.startTimeline() }
                    let (error, duration) = try FailureCases.decode(model.decoder, prompt)
                    return (model, error, duration)
                }
                var (model, error, duration) = try fail()
                // Where other programs take the processors it gets two more tries.
                for _ in 0..<2 where duration >= FailureCases.limit { (model, error, duration) = try fail() }
                let start = ContinuousClock.now
                #expect(error?.description.contains("stopped in the middle of a step") == true, "\(error!)")
                #expect(duration < FailureCases.limit)
                // Nor does anything after it hang.
                #expect(throws: ModelError.self) { try FailureCases.decode(model.decoder, prompt) }
                #expect(start.duration(to: .now) < .seconds(1))
            }
        }

        @Test func `a thread that computes for long is waited for`() throws {
            try concurrently {
                var fault = TestFault(.slowStep, step: 3)
                fault.slowSeconds = 1.2
                let model = try model(.everyBlock, fault)
                let (error, duration) = try FailureCases.decode(model.decoder, prompt)
                #expect(error == nil, "\(error!)")
                #expect(duration >= .seconds(fault.slowSeconds))
            }
        }

        @Test(arguments: FailureCases.Part.allCases, [false, true])
        func `a GPU that fails in the middle of a step ends it within two seconds`(
            part: FailureCases.Part, isRecorded: Bool
        ) throws {
            try concurrently {
                defer { EmulatedGPU.isLost.store(false, ordering: .relaxed) }
                let start: ContinuousClock.Instant
                do {
                    let model = try model(part, TestFault(.gpuError, step: 3))
                    if isRecorded { _ = try model.gpuLane?.startTimeline() }
                    let (error, duration) = try FailureCases.decode(model.decoder, prompt)
                    #expect(error?.description.contains("700") == true, "\(error!)")
                    #expect(duration < FailureCases.limit)
                    start = .now
                }
                // Taking everything apart does not hang either.
                #expect(start.duration(to: .now) < FailureCases.limit)
            }
        }

        @Test func `a GPU that computes alone and fails ends the step within two seconds`() throws {
            try concurrently {
                defer { EmulatedGPU.isLost.store(false, ordering: .relaxed) }
                let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[4], cachePercent: [40, 30]),
                    context: try EmulatedGPU.context())
                try #require(model.gpuLane).testFault = TestFault(.gpuError, step: 3)
                let (error, duration) = try FailureCases.decode(model.decoder, prompt)
                #expect(error?.description.contains("700") == true, "\(error!)")
                #expect(duration < FailureCases.limit)
            }
        }
    }
}

struct CPULaneFailureTests {
    @Test func `a thread that stops for good ends a step of the CPU alone within two seconds`() throws {
        let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
        func fail() throws -> (error: ModelError?, Duration) {
            let model = try LoadedModel(
                golden.folder, kernels: fastestKernels!, workerCount: WorkerPool.availableProcessorCount + 1)
            try #require(model.decoder.lane as? CPULane).testFault = TestFault(.cpuLaneDies, step: 3)
            return try FailureCases.decode(model.decoder, [2, 5, 7])
        }
        var (error, duration) = try fail()
        // Where other programs take the processors it gets two more tries.
        for _ in 0..<2 where duration >= FailureCases.limit { (error, duration) = try fail() }
        #expect(error?.description.contains("stopped in the middle of a step") == true, "\(error!)")
        #expect(duration < FailureCases.limit)
    }

    @Test(
        arguments: [
            ("cpu-lane-dies@3", TestFault.Kind.cpuLaneDies, 3), ("gpu-error@1", .gpuError, 1),
            ("slow-step@12", .slowStep, 12),
        ] as [(String, TestFault.Kind, Int)])
    func `a test fault is a kind and a step`(text: String, kind: TestFault.Kind, step: Int) throws {
        let fault = try #require(TestFault(text))
        #expect(fault.kind == kind && fault.step == step)
        for wrong in ["", text + "@1", "x" + text, text + "x", "slow-step@0", "slow-step"] {
            #expect(TestFault(wrong) == nil)
        }
    }
}
