import CUDA
import Collectives
import Glibc
import HostRuntime
import Synchronization
import Testing

@testable import OPTModel

/// A model that several processes share; here they are threads, each with its own part and its own workers.
@Suite(.serialized) struct GroupTests {
    static let cases = GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }

    @Test(arguments: cases, [2, 3, 4])
    func `tokens are those of transformers, however many processes share the model`(
        golden: GoldenCase, size: Int
    ) throws {
        let errors = try inThreadGroup(of: size, golden) { model, group in
            // One after another, then all at once: rows that decode, and many rows.
            let together = try model.decodeGreedily(golden.prompts.map(\.ids), steps: golden.steps)
            let first = try model.decodeGreedily([golden.prompts[0].ids], steps: golden.steps)
            #expect(first.tokens[0] == golden.prompts[0].tokens)
            for (index, prompt) in golden.prompts.enumerated() {
                let reference = try golden.logits(index)
                #expect(together.tokens[index] == prompt.tokens)
                #expect(relativeError(together.firstLogits[index], reference.first) < GoldenTests.tolerance)
                #expect(relativeError(together.lastLogits[index], reference.last) < GoldenTests.tolerance)
            }
            let layerCount = model.configuration.layerCount
            #expect(group.reduceCount % (2 * layerCount + 1) == 0 && group.reduceCount > 0)
        }
        #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
    }

    @Test func `several workers of each process meet once a block`() throws {
        let golden = try #require(Self.cases.first { $0.name == "pre-norm" })
        let errors = try inThreadGroup(of: 2, golden, workerCount: 2) { model, _ in
            let result = try model.decodeGreedily([golden.prompts[1].ids], steps: 16)
            #expect(result.tokens[0] == Array(golden.prompts[1].tokens.prefix(16)))
        }
        #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
    }

    @Test func `where the processes cannot meet the step ends with the reason on each of them`() throws {
        let golden = try #require(Self.cases.first { $0.name == "post-norm" })
        let errors = try inThreadGroup(of: 3, golden, failingMeeting: 40) { model, _ in
            #expect {
                _ = try model.decodeGreedily([golden.prompts[0].ids], steps: golden.steps)
            } throws: {
                ($0 as? ModelError)?.code == .group && "\($0)".contains("meeting 40 was to fail")
            }
        }
        #expect(errors.dropFirst().allSatisfy { $0?.contains("meeting 40") == true }, "\(errors)")
    }

    @Test(arguments: [1, 2, 3, 4, 7])
    func `the parts of a model are all of it, as equal as they can be`(size: Int) throws {
        for golden in Self.cases {
            let configuration = try OPTConfiguration(folder: golden.folder)
            let parts = (0..<size).map { ModelShard(configuration, rank: $0, of: size) }
            for (ranges, count, most) in [
                (parts.map(\.heads), configuration.headCount, 1),
                (parts.map(\.neurons), configuration.feedForwardSize, 64),
                (parts.map(\.tokens), configuration.vocabularySize, 64),
            ] {
                #expect(ranges[0].lowerBound == 0 && ranges[size - 1].upperBound == count)
                #expect(zip(ranges, ranges.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound })
                #expect(ranges.map(\.count).max()! - ranges.map(\.count).min()! <= most)
            }
            let bytes = parts.map { OPTWeights.byteCount($0.configuration) }
            #expect(size == 1 || bytes.max()! < OPTWeights.byteCount(configuration))
        }
    }

    @Test func `caches of the other processes go with those of rank 0`() throws {
        final class Recorder: CommandChannel, @unchecked Sendable {
            var commands: [GroupCommand] = []
            let batch = StepBatch(rowCapacity: 8, segmentCapacity: 4, logitsCapacity: 8)
            func send(_ command: UnsafeRawBufferPointer) throws(CollectiveError) {
                commands.append(GroupCommand(command, batch: batch)!)
            }
            func receive(into buffer: inout [UInt8]) throws(CollectiveError) -> Bool { false }
        }
        final class Idle: Lane {
            final class Cache: LaneCache {
                let capacities: [Int]
                let byteCount = 0
                init(_ capacities: [Int]) { self.capacities = capacities }
            }
            let rowCapacity = 8
            let segmentCapacity = 4
            let logitsCapacity = 8
            func makeCache(capacities: [Int], logitsCount: Int) throws(ModelError) -> any LaneCache {
                Cache(capacities)
            }
            func compute(
                _ batch: StepBatch, cache: any LaneCache, _ body: (StepBatch.Segment, LaneOutput) -> Void
            ) throws(ModelError) {}
        }
        let recorder = Recorder()
        let lane = ConductingLane(Idle(), channel: recorder)
        var first: (any LaneCache)? = try lane.makeCache(capacities: [5, 70_000])
        #expect(first?.capacities == [5, 70_000])
        first = nil
        let second = try lane.makeCache(capacities: [9], logitsCount: 3)
        let batch = StepBatch(rowCapacity: 8, segmentCapacity: 4, logitsCapacity: 8)
        let tokens: [Int32] = [3, 50_271, 7]
        for (sequence, range) in [(1, 0..<2), (0, 2..<3)] {
            tokens[range].withUnsafeBufferPointer {
                batch.append(
                    $0, sequence: sequence, firstPosition: 40 * sequence, logitsCount: sequence == 0 ? 1 : 2)
            }
        }
        try lane.compute(batch, cache: second) { _, _ in }
        guard recorder.commands.count == 4, case .makeCache(let made, [5, 70_000], 0) = recorder.commands[0],
            case .releaseCache(made) = recorder.commands[1],
            case .makeCache(let other, [9], 3) = recorder.commands[2],
            case .compute(other) = recorder.commands[3]
        else {
            Issue.record("\(recorder.commands)")
            return
        }
        let read = recorder.batch
        #expect(read.segmentCount == 2 && read.rowCount == 3 && read.logitsCount == 3)
        #expect((0..<3).map { read.logitsRows[$0] } == [0, 1, 2])
        #expect((0..<3).map { read.tokens[$0] } == tokens)
        #expect((0..<3).map { read.positions[$0] } == [40, 41, 0])
        #expect((0..<2).map { read.segments[$0].sequence } == [1, 0])
        // Bytes that are cut short, or more than fits, are no command.
        let writer = GroupCommandWriter(rowCapacity: 8, segmentCapacity: 4)
        writer.compute(batch, cache: 1)
        for count in stride(from: 0, to: writer.bytes.count, by: 4) {
            #expect(
                GroupCommand(UnsafeRawBufferPointer(rebasing: writer.bytes[..<count]), batch: read) == nil)
        }
        #expect(GroupCommand(writer.bytes, batch: StepBatch(rowCapacity: 2, segmentCapacity: 4)) == nil)
        let fewLogits = StepBatch(rowCapacity: 8, segmentCapacity: 4, logitsCapacity: 2)
        #expect(GroupCommand(writer.bytes, batch: fewLogits) == nil)
    }
}

/// A model of a group's rank.
typealias RankModel =
    @Sendable (_ communicator: any Communicator, _ channel: any CommandChannel) throws ->
    LoadedModel

/// Runs `body` as rank 0 of a group whose other ranks follow; the errors that ended these.
func inThreadGroup(
    of size: Int, failingMeeting: Int? = nil, model: @escaping RankModel,
    _ body: (LoadedModel, ThreadGroup) throws -> Void
) throws -> [String?] {
    let group = ThreadGroup(size: size)
    group.failingMeeting = failingMeeting
    let errors = Mutex<[String?]>(Array(repeating: nil, count: size))
    let threads = (1..<size).map { rank in
        startThread {
            do {
                let model = try model(group.communicator(rank), group.channel(rank))
                try FollowingRank(model.decoder.lane, channel: group.channel(rank)).run()
            } catch {
                errors.withLock { $0[rank] = "\(error)" }
                group.fail()
            }
        }
    }
    do {
        defer {
            group.end()
            for thread in threads { pthread_join(thread, nil) }
        }
        let conductor = try model(group.communicator(0), group.channel(0))
        try body(conductor, group)
    }
    return errors.withLock(\.self)
}

/// The same with a golden case's model on CPU lanes.
func inThreadGroup(
    of size: Int, _ golden: GoldenCase, workerCount: Int = 1, failingMeeting: Int? = nil,
    _ body: (LoadedModel, ThreadGroup) throws -> Void
) throws -> [String?] {
    let folder = golden.folder
    return try inThreadGroup(
        of: size, failingMeeting: failingMeeting,
        model: {
            try LoadedModel(folder, group: $0, channel: $1, workerCount: workerCount)
        }, body)
}

extension EmulatedGPUTests {
    /// The processes' parts on GPUs, each with what lies on it, is streamed to it, and is computed by its CPU.
    @Suite(.serialized) struct GPUGroupTests {
        static let cases = GroupTests.cases.filter { $0.name != "storybook" }
        static let splits = [
            LaneSplit(), LaneSplit(weights: [0, 100]), LaneSplit(weights: [50, 50], cache: [50, 50]),
            LaneSplit(weights: [30, 30]), LaneSplit(weights: [0, 100], cache: [40, 60], computation: 40),
            LaneSplit(weights: [30, 70], computation: 60),
        ]

        @Test(arguments: cases, 0..<splits.count)
        func `tokens are those of transformers, wherever each process has its part`(
            golden: GoldenCase, split: Int
        ) throws {
            try check(golden, split, oneShot: false)
        }

        @Test(arguments: cases, 0..<splits.count)
        func `tokens are the same where sums go through the memory of all GPUs`(
            golden: GoldenCase, split: Int
        ) throws {
            try check(golden, split, oneShot: true)
        }

        private func check(_ golden: GoldenCase, _ split: Int, oneShot: Bool) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            let split = Self.splits[split]
            let request = try split.request
            let folder = golden.folder
            let size = 2 + golden.prompts[0].ids.count % 3
            let memories = try (0..<(oneShot ? size : 0)).map { _ in
                try PeerMemory(
                    byteCount: GPUExchange.memoryByteCount(size), context: try EmulatedGPU.context())
            }
            for memory in memories { try memory.open(memories) }
            let errors = try inThreadGroup(of: size) {
                try LoadedModel(
                    folder, group: $0, channel: $1, onGPU: request, context: try EmulatedGPU.context(),
                    memory: oneShot ? memories[$0.place.rank] : nil, cpu: split.cpu(workerCount: 1))
            } _: { model, group in
                // A prompt alone, then all of them as a ragged batch.
                let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: 8)
                #expect(alone.tokens[0] == Array(golden.prompts[3].tokens.prefix(8)))
                #expect(
                    relativeError(alone.firstLogits[0], try golden.logits(3).first) < GoldenTests.tolerance)
                let batch = try model.decodeGreedily(golden.prompts.map(\.ids), steps: 6)
                for (tokens, prompt) in zip(batch.tokens, golden.prompts) {
                    #expect(tokens == Array(prompt.tokens.prefix(6)))
                }
                if !oneShot { try golden.expect(try model.logits(of: golden.text, rowCount: 40)) }
                // All of them are small.
                #expect((group.reduceCount == 0) == oneShot)
            }
            #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
        }
    }
}

/// The same on the GPUs of this machine, one for each rank, with all that NVLink and PCIe do.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: SeveralGPUs.count > 1, "there is no second GPU"))
struct SeveralGPUsTests {
    static let cases = GroupTests.cases
    static let splits = EmulatedGPUTests.GPUGroupTests.splits

    @Test(arguments: cases, 0..<splits.count)
    func `tokens are those of transformers, wherever each GPU has its part`(
        golden: GoldenCase, split: Int
    ) throws {
        let split = Self.splits[split]
        let request = try split.request
        let folder = golden.folder
        for size in 2...min(4, SeveralGPUs.count) {
            let contexts = try (0..<size).map { try Context(device: CUDADriver.load().device($0)) }
            let memories = try contexts.map {
                try PeerMemory(byteCount: GPUExchange.memoryByteCount(size), context: $0)
            }
            for memory in memories { try memory.open(memories) }
            let errors = try inThreadGroup(of: size) {
                try LoadedModel(
                    folder, group: $0, channel: $1, onGPU: request, context: contexts[$0.place.rank],
                    memory: memories[$0.place.rank], cpu: split.cpu(workerCount: 1))
            } _: { model, _ in
                let alone = try model.decodeGreedily([golden.prompts[3].ids], steps: golden.steps)
                #expect(alone.tokens[0] == golden.prompts[3].tokens)
                let batch = try model.decodeGreedily(golden.prompts.map(\.ids), steps: golden.steps)
                for (tokens, prompt) in zip(batch.tokens, golden.prompts) { #expect(tokens == prompt.tokens) }
            }
            #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
        }
    }
}

enum SeveralGPUs {
    static let count = (try? CUDADriver.load().deviceCount) ?? 0
}
