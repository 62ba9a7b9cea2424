import AllocationsOfThreads
import Glibc
import HostRuntime
import Placement
import Synchronization
import Testing

@testable import OPTModel

/// Where weights lie and who computes with them in tests of the joined step, on the emulated GPU and on a real one.
enum CPUShareCases {
    /// The GPU's percentages of weights, computation and cache, the rest being the CPU's.
    struct Split: Sendable, CustomStringConvertible {
        var weights, computation, cache: Double

        var description: String { "weights \(weights), computation \(computation), cache \(cache)" }

        var request: PlacementRequest {
            get throws {
                try PlacementRequest(
                    perLayerWeightPercent: (0..<4).flatMap { _ in [weights, 100 - weights] },
                    perLayerComputationPercent: [Double](repeating: computation, count: 4),
                    cachePercent: [cache, 100 - cache])
            }
        }
    }

    static let splits: [Split] = [0.0, 30, 70, 100].flatMap { weights in
        [0.0, 40, 70, 100].filter { $0 >= weights }.flatMap { computation in
            Set([0, computation / 2, computation]).sorted().map {
                Split(weights: weights, computation: computation, cache: $0)
            }
        }
    }
}

extension EmulatedGPUTests {
    /// The GPU lane on the emulated GPU and the processor's threads, which compute every block together.
    @Suite(.serialized) struct CPUShareTests {
        private func concurrently<Result>(_ body: () throws -> Result) throws -> Result {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            return try body()
        }

        private func model(
            _ golden: GoldenCase, _ request: PlacementRequest,
            cpu: LoadedModel.CPUPart = LoadedModel.CPUPart()
        ) throws -> LoadedModel {
            try LoadedModel(golden.folder, onGPU: request, context: try EmulatedGPU.context(), cpu: cpu)
        }

        @Test(arguments: LaneTests.cases, CPUShareCases.splits)
        func `greedy tokens are those of transformers, whoever computes what`(
            golden: GoldenCase, split: CPUShareCases.Split
        ) throws {
            try concurrently {
                let model = try model(golden, try split.request)
                #expect((model.gpuLane?.cpuShare != nil) == (split.computation < 100))
                let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: 8)
                #expect(alone.tokens[0] == Array(golden.prompts[3].tokens.prefix(8)))
                #expect(
                    relativeError(alone.firstLogits[0], try golden.logits(3).first) < GoldenTests.tolerance)
                let batch = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 6, choosesOnLane: true)
                for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                    #expect(tokens == Array(prompt.tokens.prefix(6)))
                }
            }
        }
    }
}
