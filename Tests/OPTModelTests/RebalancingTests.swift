import Placement
import Synchronization
import Testing

@testable import OPTModel

/// A boundary that moves between tokens, on the emulated GPU and on a real one.
enum RebalancingCases {
    /// GPU % of the weights and of the computation. With few slots the streaming thread is no pass ahead, with many several.
    static let splits: [(weights: Double, computation: Double, slotCount: Int)] = [
        (0, 50, 4), (0, 25, 2), (30, 60, 7), (70, 80, 4), (30, 30.5, 3),
    ]

    /// Decodes each prompt, and all of them side by side, with the boundary put anywhere before every step.
    ///
    /// - Returns: the boundaries that steps had.
    static func check(_ model: LoadedModel, _ golden: GoldenCase) throws -> Set<Int> {
        let lane = try #require(model.gpuLane)
        let moving = try #require(lane.weights.boundary)
        var random = SystemRandomNumberGenerator()
        var boundaries: Set<Int> = []
        for prompts in [[golden.prompts[3]], golden.prompts] {
            let count = min(12, prompts.map(\.tokens.count).min()!)
            let state = try model.decoder.makeState(capacities: prompts.map { $0.ids.count + count })
            var tokens: [[Int32]] = prompts.map { _ in [] }
            func choose(_ sequence: Int, _ output: LaneOutput) {
                guard case .logits(let logits) = output else { return }
                let token = Int32(logits.indices.max { logits[$0] < logits[$1] }!)
                tokens[sequence].append(token)
                state.nextTokens[sequence] = token
                state.isActive[sequence] = true
            }
            moving.move(to: Int.random(in: moving.range, using: &random))
            _ = try model.decoder.prefill(
                prompts.map(\.ids), state: state, isCancelled: Atomic<Bool>(false), choose)
            for _ in 1..<count {
                moving.move(to: Int.random(in: moving.range, using: &random))
                try model.decoder.step(state, choose)
                boundaries.insert(lane.boundary)
            }
            for (prompt, tokens) in zip(prompts, tokens) {
                #expect(tokens == Array(prompt.tokens.prefix(count)))
            }
        }
        return boundaries
    }
}

extension EmulatedGPUTests {
    @Suite(.serialized) struct RebalancingTests {
        @Test(arguments: LaneTests.cases, RebalancingCases.splits)
        func `tokens stay those of transformers wherever the boundary moves`(
            golden: GoldenCase, split: (weights: Double, computation: Double, slotCount: Int)
        ) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            let request = try CPUShareCases.Split(
                weights: split.weights, computation: split.computation, cache: split.weights
            ).request
            let model = try LoadedModel(
                golden.folder, onGPU: request, stagingSlotCount: split.slotCount,
                context: try EmulatedGPU.context(), cpu: LoadedModel.CPUPart(), rebalances: true)
            guard model.gpuLane?.weights.boundary != nil else {
                // Too few neurons for both lanes to have some that could move.
                let placement = try #require(model.gpuWeights?.placement)
                #expect(placement.mlp.cpuComputed.isEmpty || !placement.streamsWeights)
                return
            }
            let boundaries = try RebalancingCases.check(model, golden)
            #expect(boundaries.count > 1)
            let record = try #require(model.gpuLane?.rebalancing)
            #expect(record.least == boundaries.min() && record.most == boundaries.max())
            #expect(
                record.moveCount > 0 && record.least <= Int(record.mean) && Int(record.mean) <= record.most)
        }

        @Test func `it stays where there is nothing to move`() throws {
            func boundary(_ request: PlacementRequest) throws -> MovingBoundary? {
                MovingBoundary(
                    Placement(OPTConfiguration(publishedModel: "opt-6.7b")!.shape, request), slotCount: 4)
            }
            #expect(try boundary(CPUShareCases.Split(weights: 0, computation: 30, cache: 0).request) != nil)
            // The GPU computes everything; nothing is streamed; some of it lies on disk.
            #expect(try boundary(CPUShareCases.Split(weights: 0, computation: 100, cache: 0).request) == nil)
            #expect(try boundary(CPUShareCases.Split(weights: 50, computation: 50, cache: 0).request) == nil)
            let onDisk = try PlacementRequest(
                perLayerWeightPercent: [100, 0, 100, 0, 0, 50, 0, 100],
                perLayerComputationPercent: [100, 100, 70, 50])
            #expect(try boundary(onDisk) == nil)
        }

        @Test func `a pass that is settled keeps its boundary`() {
            let moving = MovingBoundary(at: 512, range: 64...1000, unit: 64, mostPassesAhead: 2)
            #expect(moving.settle(pass: 1) == 512)
            moving.move(to: 700)
            #expect(moving.settle(pass: 1) == 512)
            #expect(moving.settle(pass: 2) == 704)
            moving.move(to: -5)
            #expect(moving.settle(pass: 3) == 64)
            moving.move(to: 999)
            #expect(moving.settle(pass: 2) == 704)
            #expect(moving.settle(pass: 4) == 1000)
        }
    }
}

/// What the boundary does on a machine of given rates.
struct RebalancerTests {
    /// opt-6.7b: 32 layers of 16384 neurons.
    private static let rebalancer = Rebalancer(bytesPerNeuron: 32 * 16384, blockCount: 65)
    private static let neuronBytes = 16384.0 * 32 * 16384

    /// The seconds of a step on a machine with these rates, and what is seen of it.
    private func step(at boundary: Int, cpuRate: Double, uploadRate: Double)
        -> (seconds: Double, seen: Rebalancer.Step)
    {
        let share = Double(boundary) / 16384
        let others = 4.4e9
        let computed = (1 - share) * Self.neuronBytes + 0.7 * others
        let streamed = share * Self.neuronBytes + 0.3 * others
        let cpuSeconds = computed / cpuRate
        let seconds = max(cpuSeconds + 65 * 10e-6, streamed / uploadRate)
        return (
            seconds,
            Rebalancer.Step(
                cpuSeconds: cpuSeconds, cpuByteCount: Int(computed), streamedByteCount: Int(streamed),
                uploadBytesPerSecond: uploadRate)
        )
    }

    private func best(cpuRate: Double, uploadRate: Double) -> Double {
        stride(from: 64, through: 16384, by: 64).map {
            step(at: $0, cpuRate: cpuRate, uploadRate: uploadRate).seconds
        }.min()!
    }

    @Test(arguments: [(9e10, 5e10), (4.5e10, 5.3e10), (1.2e11, 3e10), (2e10, 5e10), (3e11, 1e10)])
    func `ten tokens after the rates have changed a step is within 5 % of the best`(
        cpuRate: Double, uploadRate: Double
    ) {
        for start in [64, 4096, 8000, 16384] {
            var boundaries = [start, start]
            for _ in 0..<10 {
                // What is seen of a step moves the boundary of the step after the next.
                let last = boundaries[boundaries.count - 2]
                let seen = step(at: last, cpuRate: cpuRate, uploadRate: uploadRate).seen
                let next = Self.rebalancer.boundary(after: seen, at: last)
                boundaries.append(min(16384, max(64, (next + 32) / 64 * 64)))
            }
            let reached = step(at: boundaries.last!, cpuRate: cpuRate, uploadRate: uploadRate).seconds
            #expect(reached <= 1.05 * best(cpuRate: cpuRate, uploadRate: uploadRate))
        }
    }

    @Test func `a step that was seen badly moves nothing`() {
        let nothing = Rebalancer.Step(
            cpuSeconds: 0, cpuByteCount: 0, streamedByteCount: 0, uploadBytesPerSecond: 0)
        #expect(Self.rebalancer.boundary(after: nothing, at: 640) == 640)
    }
}
