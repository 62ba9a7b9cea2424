import Placement
import Testing

@testable import tandem

struct DecodeTrafficTests {
    private static let shape = ModelShape(
        layerCount: 12, headCount: 12, headDimension: 64, hiddenSize: 768, feedForwardSize: 3072,
        vocabularySize: 50272)

    @Test func `a cache in CPU memory counts where it is read`() throws {
        let placement = Placement(
            Self.shape,
            try PlacementRequest(
                perLayerPercent: [100, 0, 100, 0, 50, 50, 100, 0], cachePercent: [25, 75]))
        let streamed = placement.streamedByteCount(from: .cpu)
        #expect(streamed > 0)
        func traffic(_ computesCacheOnCPU: Bool) -> DecodeTraffic {
            DecodeTraffic(
                placement, weights: 1_000_000, cache: 12_000, computesCacheOnCPU: computesCacheOnCPU)
        }
        let byGPU = traffic(false)
        #expect(byGPU.gpuMemory == 1_003_000 && byGPU.pcie == streamed + 9_000)
        #expect(byGPU.cpuMemory == 0 && byGPU.disk == 0)
        let byCPU = traffic(true)
        #expect(byCPU.gpuMemory == 1_003_000 && byCPU.pcie == streamed)
        #expect(byCPU.cpuMemory == 9_000 && byCPU.disk == 0)
    }

    @Test func `a cache on disk passes through PCIe, whoever computes on the one in CPU memory`() throws {
        let placement = Placement(
            Self.shape,
            try PlacementRequest(perLayerPercent: [100, 0, 100, 0, 100, 0, 100, 0], cachePercent: [25, 25]))
        for (isOnCPU, pcie) in [(false, 9_000), (true, 6_000)] {
            let traffic = DecodeTraffic(
                placement, weights: 1_000_000, cache: 12_000, computesCacheOnCPU: isOnCPU)
            #expect(traffic.gpuMemory == 1_003_000 && traffic.disk == 6_000)
            #expect(traffic.pcie == pcie && traffic.cpuMemory == 9_000 - pcie)
        }
    }

    @Test func `without a cache in CPU memory it makes no difference who would compute it`() throws {
        let placement = Placement(
            Self.shape,
            try PlacementRequest(
                perLayerPercent: [100, 0, 100, 0, 0, 50, 0, 0], cachePercent: [100, 0]))
        let traffic = [false, true].map {
            DecodeTraffic(placement, weights: 1_000_000, cache: 12_000, computesCacheOnCPU: $0)
        }
        #expect(traffic[0] == traffic[1])
        #expect(traffic[0].disk > 0 && traffic[0].pcie > traffic[0].disk && traffic[0].cpuMemory == 0)
    }

    @Test func `what the CPU computes it reads from CPU memory, with its heads' cache`() throws {
        let placement = Placement(
            Self.shape,
            try PlacementRequest(
                perLayerWeightPercent: [100, 0, 100, 0, 25, 75, 25, 75],
                perLayerComputationPercent: [100, 100, 50, 50]))
        let traffic = DecodeTraffic(
            placement, weights: 200_000_000, cache: 12_000, computesCacheOnCPU: false)
        // Half of 7.1 million weights a layer, of which half are streamed to the GPU's half.
        #expect(traffic.cpuMemory == 12 * 7_077_888 + 6_000)
        #expect(traffic.pcie == 12 * 7_077_888 / 2)
        #expect(traffic.gpuMemory == 200_000_000 + 12_000 - traffic.cpuMemory)
    }

    @Test func `what the CPU computes from the disk passes through CPU memory, not through PCIe`() throws {
        let placement = Placement(
            Self.shape,
            try PlacementRequest(
                perLayerWeightPercent: [100, 0, 100, 0, 0, 25, 0, 25],
                perLayerComputationPercent: [100, 100, 50, 50], cachePercent: [25, 50]))
        func traffic(_ computesCacheOnCPU: Bool) -> DecodeTraffic {
            DecodeTraffic(
                placement, weights: 200_000_000, cache: 12_000, computesCacheOnCPU: computesCacheOnCPU)
        }
        // A quarter of 7.1 million weights a layer in CPU memory and a quarter on disk go to the GPU; half are on disk for
        // the CPU. Of the cache's last half, which is the CPU's, one half is on disk.
        let quarter = 12 * 7_077_888 / 2
        #expect(traffic(false).disk == 3 * quarter + 3_000)
        #expect(traffic(false).pcie == 2 * quarter + 3_000)
        #expect(traffic(false).cpuMemory == 2 * quarter + 6_000)
        #expect(traffic(true).pcie == 2 * quarter)
        #expect(traffic(true).cpuMemory == 2 * quarter + 9_000)
    }
}
