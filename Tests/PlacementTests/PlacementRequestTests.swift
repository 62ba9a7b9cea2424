import Testing

@testable import Placement

struct PlacementRequestTests {
    @Test func `per-layer-percent is four pairs in FlexGen's order, and the GPU computes everything`() throws
    {
        let request = try PlacementRequest(
            perLayerPercent: [1, 2, 3, 4, 12.5, 6, 7, 93], cachePercent: [40, 60])
        #expect(request.weights.inputEmbedding == (try TierShares(gpuPercent: 1, cpuPercent: 2)))
        #expect(request.weights.outputEmbedding == (try TierShares(gpuPercent: 3, cpuPercent: 4)))
        #expect(request.weights.attention == (try TierShares(gpuPercent: 12.5, cpuPercent: 6)))
        #expect(request.weights.attention.diskPercent == 81.5)
        #expect(request.weights.mlp.diskPercent == 0)
        #expect(request.cache == (try TierShares(gpuPercent: 40, cpuPercent: 60)))
        #expect(request.computation == PerLayerKind(repeating: 100))
        #expect(request.weightArguments == "--per-layer-percent 1 2 3 4 12.5 6 7 93")
        #expect(try PlacementRequest.alike(0, 100).cache == .allOnGPU)
    }

    @Test func `the balanced flags give weights and computation apart`() throws {
        let request = try PlacementRequest(
            perLayerWeightPercent: [0, 100, 10, 90, 20, 80, 30, 70],
            perLayerComputationPercent: [10, 20, 40, 50])
        #expect(request.weights.mlp.gpuPercent == 30)
        #expect(LayerKind.allCases.map { request.computation[$0] } == [10, 20, 40, 50])
        #expect(request.cacheArguments == "--cache-percent 40 60")
        #expect(request.weightArguments == "--per-layer-weight-percent 0 100 10 90 20 80 30 70")
    }

    @Test func `a wrong number of numbers is counted in the sentence`() {
        func sentence(_ body: () throws -> Void) -> String? {
            let error = placementError(body)
            #expect(error?.code == .wrongCount)
            return error?.description
        }
        #expect(
            sentence { _ = try PlacementRequest(perLayerPercent: [0, 100, 0, 100, 0, 100]) }
                == "--per-layer-percent takes eight numbers, GPU % and CPU % for each of input embedding, output "
                + "embedding, self-attention and MLP; 6 were given")
        #expect(
            sentence { _ = try PlacementRequest.alike(0, 100, cache: [100]) }
                == "--cache-percent takes two numbers, GPU % and CPU % of the cache; 1 was given")
        let six = sentence {
            _ = try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
                perLayerComputationPercent: [40, 40, 40, 40, 40, 40])
        }
        #expect(six?.hasPrefix("--per-layer-computation-percent takes four numbers") == true)
        for count in 0...20 where count != 8 {
            #expect(throws: PlacementError.self) {
                try PlacementRequest(perLayerPercent: Array(repeating: 0, count: count))
            }
        }
    }

    @Test func `a percentage that is none is refused with flag, kind and number`() {
        func sentence(_ numbers: [Double]) -> String? {
            let error = placementError { _ = try PlacementRequest(perLayerPercent: numbers) }
            #expect(error?.code == .invalidPercent)
            return error?.description
        }
        #expect(
            sentence([0, 100, 0, 100, -5, 100, 0, 100])
                == "--per-layer-percent: self-attention: the GPU's percentage is -5; give a number from 0 to 100"
        )
        #expect(
            sentence([0, 100, 0, 100, 0, 100, 0, 100.5])
                == "--per-layer-percent: MLP: the CPU's percentage is 100.5; give a number from 0 to 100")
        #expect(
            sentence([.nan, 100, 0, 100, 0, 100, 0, 100])
                == "--per-layer-percent: input embedding: the GPU's percentage is not a number; give a number from 0 "
                + "to 100")
        #expect(
            sentence([0, 100, 60, 50, 0, 100, 0, 100])
                == "--per-layer-percent: output embedding: GPU 60 % and CPU 50 % are 110 % together; give two that "
                + "add up to 100 or less (what is missing lies on the disk)")
        #expect(sentence([.infinity, 0, 0, 0, 0, 0, 0, 0])?.contains("is inf;") == true)
        let computation = placementError {
            _ = try PlacementRequest(
                perLayerWeightPercent: [0, 0, 0, 0, 0, 0, 0, 0], perLayerComputationPercent: [0, 0, 101, 0])
        }
        #expect(
            computation?.description
                == "--per-layer-computation-percent: self-attention: the GPU's percentage is 101; give a number from "
                + "0 to 100")
    }

    @Test func `weights and cache beyond what the GPU computes are refused`() throws {
        let weights = placementError {
            _ = try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 50, 50],
                perLayerComputationPercent: [40, 40, 40, 40])
        }
        #expect(weights?.code == .weightsExceedComputation)
        #expect(
            weights?.description
                == "MLP has 50 % of its weights on the GPU, which computes 40 % of it; give --per-layer-weight-percent "
                + "at most 40 % there, or the GPU more of the computation")
        let cache = placementError {
            _ = try PlacementRequest(
                perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
                perLayerComputationPercent: [100, 100, 40, 100], cachePercent: [40.5, 59.5])
        }
        #expect(cache?.code == .cacheExceedsComputation)
        #expect(
            cache?.description
                == "40.5 % of the cache are on the GPU, which computes 40 % of self-attention; give --cache-percent "
                + "at most 40 % there, or the GPU more of the computation")
        // As much as is computed is allowed, down to nothing.
        _ = try PlacementRequest(
            perLayerWeightPercent: [0, 0, 0, 0, 40, 60, 0, 0], perLayerComputationPercent: [0, 0, 40, 0],
            cachePercent: [40, 0])
    }
}
