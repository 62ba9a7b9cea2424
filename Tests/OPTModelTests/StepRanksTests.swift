import CUDA
import CUDAKernelImage
import Checkpoints
import Placement
import Synchronization
import Testing

@testable import OPTModel

@Suite struct PeerSlotsTests {
    @Test(arguments: [("opt-1.3b", 2), ("opt-6.7b", 8), ("opt-13b", 3), ("opt-125m", 5), ("opt-2.7b", 3)])
    func `every rank's sums have slots of their own, one rank's behind the other's`(
        model: String, rankCount: Int
    ) throws {
        let whole = try #require(OPTConfiguration(publishedModel: model))
        let shards = (0..<rankCount).map { ModelShard(whole, rank: $0, of: rankCount) }
        for blockCount in [1, 40, 108, 132] {
            let slots = PeerSlots(shards, blockCount: blockCount)
            let cuts = shards.map { StepCut($0.configuration, blockCount: blockCount) }
            let tileCount = whole.hiddenSize / 64
            for (ranges, cuts, byteCount) in [
                (slots.output, cuts.map(\.output), slots.fc2Offset),
                (slots.fc2, cuts.map(\.fc2), slots.byteCount - slots.fc2Offset),
            ] {
                let ends = (0..<tileCount).map { tile in
                    ranges.indices.reduce(0) { end, rank in
                        #expect(ranges[rank][tile].lowerBound == end)
                        #expect(ranges[rank][tile].count == cuts[rank].slotCount(ofTile: tile))
                        return ranges[rank][tile].upperBound
                    }
                }
                #expect(ends.min()! >= rankCount && ends.max()! * whole.hiddenSize * 4 == byteCount)
            }
            #expect(
                StepRanks.byteCount(whole, rankCount: rankCount, blockCount: blockCount)
                    == Int(TANDEM_GPU_DECODE_SETS) * slots.byteCount)
            let table = slots.table(rank: rankCount - 1)
            #expect(table.count == 2 * tileCount)
            for (entry, range) in zip(table, slots.output[rankCount - 1] + slots.fc2[rankCount - 1]) {
                #expect(Int(entry.first_slot) == range.lowerBound)
                #expect(Int(entry.slot_count) == range.upperBound)
            }
        }
    }

    @Test func `a model is divided only where every rank has heads, neurons and rows`() throws {
        let storybook = try #require(GoldenCase.all.first { $0.name == "storybook" })
        let whole = try OPTConfiguration(folder: storybook.folder)
        #expect([1, 2, 3, 4].allSatisfy { StepRanks.divides(whole, rankCount: $0) })
        #expect(![0, 5, 9].contains { StepRanks.divides(whole, rankCount: $0) })
        let postNorm = try #require(GoldenCase.all.first { $0.name == "post-norm" })
        #expect(!StepRanks.divides(try OPTConfiguration(folder: postNorm.folder), rankCount: 2))
    }
}

/// Ranks that share one GPU wait for each other there, and other kernels would keep one of them from running.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
enum RanksOnOneGPU {}

/// A step in one kernel of each rank. The ranks are threads, and their kernels run side by side on one GPU, each on a part
/// of its multiprocessors: what they write to each other goes through the same instructions as between two GPUs.
///
/// Nothing else may run on that GPU meanwhile: a kernel of which some blocks have no room keeps the others waiting, until
/// they give up.
extension RanksOnOneGPU {
    @Suite(.serialized, .enabled(if: GPUMachine.hasCopyEngine, "there is no GPU of compute capability 9.0"))
    struct StepRanksTests {
        static let golden: [(name: String, sizes: [Int])] = [
            ("storybook", [2, 3, 4]), ("pre-norm", [2]), ("head-dim-128", [2]),
        ]

        @Test(arguments: golden)
        func `tokens and logits are those of transformers`(name: String, sizes: [Int]) throws {
            let golden = try #require(GoldenCase.all.first { $0.name == name })
            let configuration = try OPTConfiguration(folder: golden.folder)
            let source = try CheckpointFiles(folder: golden.folder)
            for size in sizes {
                try decode(configuration, source, size: size) { model, group in
                    for (index, prompt) in golden.prompts.enumerated() {
                        let reference = try golden.logits(index)
                        let count = group.reduceCount
                        let results = try (0..<2).map { _ in
                            try model.decodeGreedily([prompt.ids], steps: golden.steps)
                        }
                        #expect(results[0].tokens == [prompt.tokens])
                        #expect(
                            relativeError(results[0].firstLogits[0], reference.first) < GoldenTests.tolerance)
                        #expect(
                            relativeError(results[0].lastLogits[0], reference.last) < GoldenTests.tolerance)
                        // The sums are always added up in the same order.
                        #expect(results[0].lastLogits == results[1].lastLogits)
                        // The ranks meet behind the embedding, and else in prefill alone.
                        let prefill = prompt.ids.count == 1 ? 1 : 2 * configuration.layerCount + 1
                        #expect(group.reduceCount - count == 2 * (prefill + golden.steps - 1))
                    }
                }
            }
        }

        /// Uneven parts, widths that are no multiple of a box, more layers than sets; for every kernel. Layers, heads, hidden
        /// size, neurons.
        static let shapes = [
            (9, 7, 448, 1832), (3, 12, 960, 3840), (6, 5, 640, 1000), (2, 16, 2048, 8192),
            (1, 33, 4224, 4096),
        ]

        @Test(arguments: shapes)
        func `logits are those of the whole model, operation by operation`(
            shape: (layers: Int, heads: Int, hidden: Int, neurons: Int)
        ) throws {
            var configuration = try #require(OPTConfiguration(publishedModel: "opt-125m"))
            configuration.layerCount = shape.layers
            configuration.headCount = shape.heads
            configuration.headDimension = shape.hidden / shape.heads
            configuration.hiddenSize = shape.hidden
            configuration.embeddingSize = shape.hidden
            configuration.feedForwardSize = shape.neurons
            configuration.vocabularySize = 1231
            let source = DummyWeights(specifications: configuration.tensorSpecifications, seed: 7)
            func text(_ count: Int, _ factor: Int) -> [Int32] {
                (0..<count).map { Int32(($0 * factor + 11) % 1231) }
            }
            let prompts = [1, 130, 700].map { text($0, 37) }
            let expected = try {
                let model = try LoadedModel(
                    configuration, source: source,
                    onGPU: try PlacementRequest(perLayerPercent: GPUGoldenTests.placements[0]),
                    usesStepKernel: false)
                return try prompts.map { try model.logits(after: $0, then: text(64, 101)) }
            }()
            for size in [2, 3] {
                try decode(configuration, source, size: size) { model, _ in
                    for (prompt, expected) in zip(prompts, expected) {
                        let found = try model.logits(after: prompt, then: text(64, 101))
                        let errors = zip(found, expected).map { relativeError($0, $1) }
                        #expect(errors.count == 65 && errors.max()! < 2e-3, "\(size) ranks: \(errors)")
                    }
                }
            }
        }

        /// Runs `body` with rank 0's model. Afterwards the peer memory of all ranks must be wiped.
        private func decode(
            _ configuration: OPTConfiguration, _ source: some TensorSource, size: Int,
            _ body: (LoadedModel, ThreadGroup) throws -> Void
        ) throws {
            let context = try Context(device: CUDADriver.load().device())
            // Some are left for the kernels behind the steps, which wait where a step's might have room.
            let blockCount = context.device.multiprocessorCount / size - 4
            #expect(StepRanks.takes(configuration, rankCount: size, kernels: try GPUKernels(context)))
            let byteCount = StepRanks.byteCount(configuration, rankCount: size, blockCount: blockCount)
            let stream = try Stream(context: context)
            let memory = try (0..<size).map { _ in try DeviceMemory(byteCount: byteCount, context: context) }
            let peers = memory.map(\.address)
            for address in peers { try stream.fill(address, with: 0xff, byteCount: byteCount) }
            try stream.synchronize()
            let request = try PlacementRequest(perLayerPercent: GPUGoldenTests.placements[0])
            defer { withExtendedLifetime(memory) {} }
            let errors = try inThreadGroup(of: size) { communicator, channel in
                try LoadedModel(
                    configuration, source: source, group: communicator, channel: channel, onGPU: request,
                    context: try Context(device: CUDADriver.load().device()),
                    stepRanks: StepRanks(
                        configuration, rank: communicator.place.rank, peers: peers, blockCount: blockCount))
            } _: {
                try body($0, $1)
            }
            #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
            for address in peers {
                let words = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: byteCount / 4)
                defer { words.deallocate() }
                try stream.download(address, to: words.baseAddress!, byteCount: byteCount)
                try stream.synchronize()
                #expect(words.allSatisfy { $0 == .max })
            }
        }
    }
}

extension LoadedModel {
    /// The logits behind a prompt, and behind each of some tokens that follow it.
    fileprivate func logits(after prompt: [Int32], then tokens: [Int32]) throws -> [[Float]] {
        let state = try decoder.makeState(capacities: [prompt.count + tokens.count])
        var logits: [[Float]] = []
        func keep(_ sequence: Int, _ output: LaneOutput) {
            if case .logits(let values) = output { logits.append(Array(values)) }
            if logits.count <= tokens.count { state.nextTokens[0] = tokens[logits.count - 1] }
            state.isActive[0] = logits.count <= tokens.count
        }
        let isCancelled = Atomic<Bool>(false)
        _ = try decoder.prefill(
            [prompt], state: state, isCancelled: isCancelled, choice: { _ in nil }, keep)
        while state.isActive[0] { try decoder.step(state, choice: { _ in nil }, keep) }
        return logits
    }
}

extension GPUMachine {
    /// Whether it has the kernels of GPUs from 9.0 on.
    static let hasCopyEngine = (try? CUDADriver.load().device().computeCapability).map { $0 >= 90 } ?? false
}
