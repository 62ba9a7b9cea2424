import Foundation
import Placement
import Testing

@testable import OPTModel

extension EmulatedGPUTests {
    /// The cache on disk, with the lane on the emulated GPU.
    @Suite(.serialized, .timeLimit(.minutes(5))) struct DiskKVCacheTests {
        /// All weights on the GPU, all on disk, and some of everything.
        static let placements = [0, 3, 4].map { GPUGoldenTests.placements[$0] }

        @Test(arguments: LaneTests.cases, GPUGoldenTests.cachesOnDisk)
        func `a cache on disk gives the same tokens, wherever the weights lie`(
            golden: GoldenCase, cache: [Double]
        ) throws {
            try concurrently {
                for placement in Self.placements {
                    let request = try PlacementRequest(perLayerPercent: placement, cachePercent: cache)
                    let model = try LoadedModel(
                        golden.folder, onGPU: request, context: try EmulatedGPU.context())
                    // One generation after another, each with a cache of its own.
                    let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: 8)
                    #expect(alone.tokens[0] == Array(golden.prompts[3].tokens.prefix(8)))
                    let batch = try model.decodeGreedily(
                        golden.prompts.map(\.ids), steps: 8, choosesOnLane: true)
                    for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                        #expect(tokens == Array(prompt.tokens.prefix(8)))
                    }
                }
            }
        }

        /// Two sessions in turn; sequences that pause, that go on by one token or by many, in passes that cut them, and
        /// that stray and come back.
        @Test(arguments: ["odd", "storybook"], [1, 2, 3, 4])
        func `what a cache holds lasts over any order of steps`(name: String, slotCount: Int) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == name })
            try concurrently {
                let request = try PlacementRequest(
                    perLayerPercent: GPUGoldenTests.placements[5],
                    cachePercent: slotCount < 3 ? [0, 0] : [25, 25])
                let model = try LoadedModel(
                    golden.folder, onGPU: request, cacheSlotCount: slotCount, rowCapacity: 24,
                    context: try EmulatedGPU.context())
                var sessions = [try ForcedDecoding(model, golden), try ForcedDecoding(model, golden)]
                let sequences = golden.prompts.indices
                var random = SplitMix(state: UInt64(slotCount))
                while sessions.contains(where: \.isUnfinished) {
                    let session = random.next(below: 2)
                    if random.next(below: 6) == 0 {
                        try sessions[session].stray(by: sequences.map { _ in random.next(below: 20) })
                        continue
                    }
                    // Half of the steps are decode steps: one token each.
                    let most = random.next(below: 2) == 0 ? 1 : 20
                    let counts = sequences.map { _ in
                        random.next(below: 4) == 0 ? 0 : 1 + random.next(below: most)
                    }
                    #expect(try sessions[session].advance(by: counts) == [])
                }
                #expect(sessions.allSatisfy { $0.comparisonCount > 20 })
            }
        }

        @Test(arguments: [2, 4])
        func `a step reads what the sequences hold once, and writes the blocks of its new positions alone`(
            slotCount: Int
        ) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
            try concurrently {
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [0, 25]),
                    cacheSlotCount: slotCount, context: try EmulatedGPU.context())
                var decoding = try ForcedDecoding(model, golden)
                let disk = try #require(decoding.cache.disk)
                let layerCount = model.configuration.layerCount
                func byteCount(_ positions: Range<Int>, _ sequence: Int, joiningGapsOf gap: Int = 0) -> Int {
                    disk.layout.blocks(positions, sequence: sequence, joiningGapsOf: gap).reduce(0) {
                        $0 + $1.count
                    }
                }
                var read = 0
                var written = 0
                for step in 0..<5 {
                    var held = 0
                    for sequence in golden.prompts.indices {
                        let length = decoding.state.length(of: sequence)
                        let count = step == 0 ? golden.prompts[sequence].ids.count : 1
                        written += layerCount * byteCount(length..<length + count, sequence)
                        held += byteCount(
                            0..<length + count, sequence, joiningGapsOf: DiskKVCache.joinedGapByteCount)
                    }
                    #expect(
                        try decoding.advance(by: golden.prompts.map { step == 0 ? $0.ids.count : 1 }) == [])
                    while !disk.isIdle { usleep(100) }
                    // The slots' layers are there for the next step already.
                    let counts = disk.transferredByteCounts
                    #expect(counts.written == written)
                    #expect(counts.read == read + slotCount * held)
                    read += layerCount * held
                }
            }
        }

        @Test func `the timeline has what the disk did`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            try concurrently {
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [0, 0]),
                    context: try EmulatedGPU.context())
                let timeline = try (model.decoder.lane as! GPULane).startTimeline()
                let result = try model.decodeGreedily([golden.prompts[4].ids], steps: 4)
                #expect(result.tokens[0] == Array(golden.prompts[4].tokens.prefix(4)))
                let names = Set(timeline.spans().filter { $0.track == .disk }.map(\.name))
                #expect(names == ["read keys and values", "write keys and values"])
            }
        }

        @Test(
            arguments: [
                ("/dev/null", "reading offloaded keys and values"),
                ("/dev/full", "writing 8192 bytes of offloaded keys and values"),
            ])
        func `a disk that fails in the middle is an error, and nothing waits for it`(
            device: String, sentence: String
        ) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
            let folder = try TemporaryFolder()
            try concurrently {
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [0, 0]),
                    offloadFolder: folder.path, context: try EmulatedGPU.context())
                var decoding = try ForcedDecoding(model, golden)
                #expect(try decoding.advance(by: golden.prompts.map(\.ids.count)) == [])
                let disk = try #require(decoding.cache.disk)
                while !disk.isIdle { usleep(100) }
                // What is read from the one ends at once; what is written to the other finds no room.
                let replacement = open(device, O_RDWR)
                #expect(dup2(replacement, disk.file.descriptor) == disk.file.descriptor)
                close(replacement)
                let error = #expect(throws: ModelError.self) {
                    for _ in 0..<3 { _ = try decoding.advance(by: golden.prompts.map { _ in 40 }) }
                }
                #expect(error?.code == .offload)
                #expect(error?.description.contains(sentence) == true, "\(String(describing: error))")
                #expect(error?.description.contains(folder.path.string) == true)
                // It stays so.
                #expect(throws: ModelError.self) { try decoding.advance(by: golden.prompts.map { _ in 1 }) }
            }
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path.string).isEmpty)
        }

        @Test func `a cache that finds no room is refused, and the lane goes on`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "pre-norm" })
            let request = try PlacementRequest(
                perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [0, 0])
            try concurrently {
                let model = try LoadedModel(
                    golden.folder, onGPU: request, context: try EmulatedGPU.context())
                let noRoom = #expect(throws: ModelError.self) {
                    try model.decoder.makeState(capacities: [1 << 40])
                }
                #expect(noRoom?.code == .offload)
                #expect(noRoom?.description.contains("--offload-dir") == true)
                let result = try model.decodeGreedily([golden.prompts[4].ids], steps: 4)
                #expect(result.tokens[0] == Array(golden.prompts[4].tokens.prefix(4)))
                let readOnly = try LoadedModel(
                    golden.folder, onGPU: request, offloadFolder: "/proc/nowhere",
                    context: try EmulatedGPU.context())
                let refused = #expect(throws: ModelError.self) {
                    try readOnly.decoder.makeState(capacities: [10])
                }
                #expect(refused?.description.contains("/proc/nowhere") == true)
            }
        }

        @Test func `a cache that is let go ends its threads in the middle of their work`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
            try concurrently {
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [0, 0]),
                    context: try EmulatedGPU.context())
                for steps in 0..<4 {
                    // The threads hold on to it for as long as they run.
                    weak var disk: DiskKVCache?
                    do {
                        var decoding = try ForcedDecoding(model, golden)
                        disk = decoding.cache.disk
                        #expect(disk != nil)
                        for _ in 0..<steps {
                            #expect(try decoding.advance(by: golden.prompts.map { _ in 30 }) == [])
                        }
                    }
                    #expect(disk == nil)
                }
            }
        }

        @Test func `a session counts its cache on every tier, with the slots in CPU memory`() throws {
            let golden = try #require(GoldenCase.all.first { $0.name == "storybook" })
            try concurrently {
                let model = try LoadedModel(
                    golden.folder,
                    onGPU: try PlacementRequest(
                        perLayerPercent: GPUGoldenTests.placements[0], cachePercent: [25, 25]),
                    cacheSlotCount: 3, context: try EmulatedGPU.context())
                let lane = model.decoder.lane as! GPULane
                // 4 layers of 1, 1 and 2 heads of 64 dimensions; 33 positions are 64 on disk.
                #expect(lane.cacheByteCount(on: .gpu, capacity: 33) == 4 * 2 * 33 * 128)
                #expect(
                    lane.cacheByteCount(on: .cpu, capacity: 33) == 4 * 2 * 33 * 128 + 3 * 2 * 2 * 64 * 128)
                #expect(lane.cacheByteCount(on: .disk, capacity: 33) == 4 * 2 * 2 * 64 * 128)
                let cache = try #require(
                    try lane.makeCache(capacities: [33, 33]) as? GPUKVCache)
                #expect(cache.disk?.byteCount == 2 * (4 + 3) * 2 * 2 * 64 * 128)
            }
        }

        /// With streams beside each other, loading included.
        private func concurrently(_ body: () throws -> Void) rethrows {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            try body()
        }
    }
}

/// The same numbers in every run.
private struct SplitMix {
    var state: UInt64

    mutating func next(below bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((value ^ (value >> 31)) % UInt64(bound))
    }
}
