import Placement
import Testing

@testable import OPTModel

/// Where the weights of all kinds and the cache lie, and who computes, alike in all layers.
struct LaneSplit: Sendable {
    /// GPU and CPU percent; the rest is on disk.
    var weights: [Double] = [100, 0]
    var cache: [Double]?
    /// The GPU's percent; nil where it computes all but what `computesCache` says.
    var computation: Double?
    /// The processor computes attention of the GPU's heads whose cache lies in CPU memory.
    var computesCache: Bool?

    var request: PlacementRequest {
        get throws {
            let weights = Array(repeating: weights, count: 4).flatMap(\.self)
            guard let computation else {
                return try PlacementRequest(perLayerPercent: weights, cachePercent: cache)
            }
            return try PlacementRequest(
                perLayerWeightPercent: weights,
                perLayerComputationPercent: Array(repeating: computation, count: 4), cachePercent: cache)
        }
    }

    func cpu(workerCount: Int) -> LoadedModel.CPUPart? {
        computation == nil && computesCache == nil
            ? nil : LoadedModel.CPUPart(workerCount: workerCount, computesCache: computesCache)
    }
}

extension LoadedModel {
    /// Each prompt alone and all as one batch have the reference's tokens; alone, its logits of the first and the last step
    /// within ‖Δ‖ / ‖reference‖ = `tolerance`.
    func expect(_ reference: Result, of prompts: [[Int32]], steps: Int, tolerance: Double) throws {
        for (index, prompt) in prompts.enumerated() {
            let alone = try decodeGreedily([prompt], steps: steps)
            #expect(alone.tokens[0] == reference.tokens[index])
            #expect(relativeError(alone.firstLogits[0], reference.firstLogits[index]) < tolerance)
            #expect(relativeError(alone.lastLogits[0], reference.lastLogits[index]) < tolerance)
        }
        let batch = try decodeGreedily(prompts, steps: steps)
        #expect(batch.tokens == reference.tokens)
    }
}
