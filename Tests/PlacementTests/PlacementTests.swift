import Testing

@testable import Placement

struct PlacementTests {
    @Test func `every byte of every published size lies on exactly one tier`() throws {
        for shape in ModelShape.published {
            for gpu in stride(from: 0.0, through: 100, by: 12.5) {
                for cpu in stride(from: 0.0, through: 100 - gpu, by: 12.5) {
                    let placement = Placement(shape, try .alike(gpu, cpu, cache: [gpu, cpu]))
                    for kind in LayerKind.allCases {
                        let sum = Tier.allCases.reduce(0) { $0 + placement.weightByteCount(kind, on: $1) }
                        #expect(sum == placement.byteCount(kind, 0..<placement[kind].count))
                    }
                    let cache = Tier.allCases.reduce(0) {
                        $0 + placement.cacheByteCount(on: $1, positionCount: 7)
                    }
                    #expect(cache == 7 * 2 * 2 * shape.layerCount * shape.hiddenSize)
                }
            }
        }
    }

    @Test func `the GPU's bytes of a layer grow with its percentage without a jump`() throws {
        for shape in ModelShape.published {
            let layer = shape.headCount * shape.bytesPerHead + shape.feedForwardSize * shape.bytesPerNeuron
            let units = shape.bytesPerHead + Placement.rowUnit * shape.bytesPerNeuron
            func resident(_ percent: Int) throws -> Int {
                let placement = Placement(shape, try .alike(Double(percent), Double(100 - percent)))
                return placement.attention.resident.count * shape.bytesPerHead
                    + placement.mlp.resident.count * shape.bytesPerNeuron
            }
            for percent in 0..<100 {
                let growth = try resident(percent + 1) - resident(percent)
                #expect(growth >= 0 && growth <= layer / 100 + units)
            }
            #expect(try resident(30) - resident(25) <= layer / 20 + units)
            #expect(try resident(0) == 0 && resident(100) == layer)
        }
    }

    @Test func `residence, streaming and the CPU's computation follow each other as in the picture`() throws {
        let request = try PlacementRequest(
            perLayerWeightPercent: [0, 100, 25, 75, 25, 50, 10, 10],
            perLayerComputationPercent: [40, 50, 75, 40], cachePercent: [50, 50])
        let placement = Placement(.opt6_7B, request)
        #expect(placement.attention.resident == 0..<8)
        #expect(placement.attention.streamed == 8..<24)
        #expect(placement.attention.cpuComputed == 24..<32)
        #expect(placement.attention.streamed(from: .cpu) == 8..<24)
        #expect(placement.attention.streamed(from: .disk).isEmpty)
        #expect(placement.cacheHeads.gpu == 0..<16)
        #expect(placement.gpuHeadsWithCacheElsewhere == 16..<24)
        // 16384 neurons are 256 units of 64: 10 % are 26 of them, 20 % 51, 40 % 102.
        #expect(placement.mlp.resident == 0..<26 * 64)
        #expect(placement.mlp.streamed(from: .cpu) == 26 * 64..<51 * 64)
        #expect(placement.mlp.streamed(from: .disk) == 51 * 64..<102 * 64)
        #expect(placement.mlp.cpuComputed == 102 * 64..<16384)
        // 50272 rows: a quarter is 196.375 units, a half 392.75.
        #expect(placement.tokenTable.streamed == 196 * 64..<393 * 64)
        #expect(
            placement.streamedByteCount(from: .cpu)
                == 32 * (16 * 4 * 128 + 25 * 64 * 2) * 4096 * 2 + 197 * 64 * 4096 * 2)
        #expect(placement.streamedByteCount(from: .disk) == 32 * 51 * 64 * 2 * 4096 * 2)
        #expect(placement.streamsWeights && placement.computesOnCPU)
    }

    @Test func `keys and values are read from the tiers in the shares of their heads`() throws {
        let placement = Placement(
            .opt6_7B,
            try PlacementRequest(
                perLayerPercent: [100, 0, 100, 0, 100, 0, 100, 0], cachePercent: [50, 12.5]))
        #expect(Tier.allCases.map { placement.cacheByteCount(on: $0, of: 3200) } == [1600, 400, 1200])
        #expect(placement.cacheByteCount(on: .disk, positionCount: 7) == 12 * 7 * 2 * 32 * 128 * 2)
    }

    @Test func `what the GPU holds is always within what it computes`() throws {
        for count in [1, 12, 16, 32, 33, 40, 56, 72, 96, 3072, 3000] {
            for unit in [1, 64] {
                for weight in stride(from: 0.0, through: 100, by: 2.5) {
                    for computation in stride(from: weight, through: 100, by: 2.5) {
                        let shares = TierShares(uncheckedGPU: weight, cpu: 0)
                        let layer = LayerPlacement(
                            shares, computationPercent: computation, count: count, unit: unit)
                        #expect(layer.resident.upperBound <= layer.gpuComputed.upperBound)
                        #expect(
                            layer.resident.count + layer.streamed.count + layer.cpuComputed.count == count)
                    }
                }
            }
        }
    }

    @Test func `the token table follows the output embedding, the positions the input embedding`() throws {
        let request = try PlacementRequest(perLayerPercent: [100, 0, 0, 100, 0, 100, 0, 100])
        let placement = Placement(.opt6_7B, request)
        #expect(placement.positionTable.weights.gpu == 0..<2050)
        #expect(placement.tokenTable.weights.cpu == 0..<50272)
        #expect(placement[.inputEmbedding] == placement.positionTable)
        #expect(placement[.outputEmbedding] == placement.tokenTable)
    }

    @Test func `nothing is streamed where everything is on the GPU, or the CPU computes the rest`() throws {
        #expect(!Placement(.opt6_7B, try .alike(100, 0)).streamsWeights)
        #expect(Placement(.opt6_7B, try .alike(99, 1)).streamsWeights)
        #expect(!Placement(.opt6_7B, try .alike(99, 1)).computesOnCPU)
        let balanced = try PlacementRequest(
            perLayerWeightPercent: [30, 70, 30, 70, 30, 70, 30, 70],
            perLayerComputationPercent: [30, 30, 30, 30])
        #expect(!Placement(.opt30B, balanced).streamsWeights)
        #expect(Placement(.opt30B, balanced).computesOnCPU)
    }

    @Test func `the report says who computes over the cache in CPU memory`() throws {
        func line(_ cache: [Double], isAskedOfCPU: Bool) throws -> String? {
            let request = try PlacementRequest(
                perLayerPercent: [100, 0, 100, 0, 100, 0, 100, 0], cachePercent: cache)
            return Placement(.opt6_7B, request).cacheComputationLine(isAskedOfCPU: isAskedOfCPU)
        }
        let start = "attention over the cache in CPU memory: "
        #expect(
            try line([50, 50], isAskedOfCPU: true) == start + "decode on the CPU, prefill on the GPU")
        #expect(try line([0, 100], isAskedOfCPU: false) == start + "on the GPU, over PCIe")
        #expect(try line([100, 0], isAskedOfCPU: false) == nil)
        #expect(
            try line([100, 0], isAskedOfCPU: true)
                == "--cpu-cache-compute has no effect: no cache lies in CPU memory")
    }

    @Test func `the report has asked and got of every kind`() throws {
        var shape = ModelShape.opt6_7B
        shape.headCount = 64
        let lines = Placement(
            shape,
            try PlacementRequest(
                perLayerPercent: [100, 0, 0, 100, 30, 70, 12.5, 50], cachePercent: [40, 60])
        ).reportLines
        #expect(
            lines == [
                "input embedding   weights GPU 100 % (100.0 %, 2050 of 2050 positions) · CPU 0 % · disk 0 %",
                "output embedding  weights GPU 0 % · CPU 100 % (100.0 %) · disk 0 %",
                "self-attention    weights GPU 30 % (29.7 %, 19 of 64 heads) · CPU 70 % (70.3 %) · disk 0 %",
                "MLP               weights GPU 12.5 % (12.5 %, 2048 of 16384 neurons) · CPU 50 % (50.0 %) · "
                    + "disk 37.5 % (37.5 %)",
                "KV cache                  GPU 40 % (40.6 %, 26 of 64 heads) · CPU 60 % (59.4 %) · disk 0 %",
            ])
        let balanced = try PlacementRequest(
            perLayerWeightPercent: [0, 100, 0, 100, 0, 100, 0, 100],
            perLayerComputationPercent: [100, 100, 40, 100])
        #expect(
            Placement(.opt6_7B, balanced).reportLines[2]
                == "self-attention    weights GPU 0 % · CPU 100 % (100.0 %) · disk 0 % · computation GPU 40 % "
                + "(40.6 %, 13 of 32 heads)")
    }
}
