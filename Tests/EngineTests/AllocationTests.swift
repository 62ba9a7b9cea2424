import AllocationCounter
import AllocationsOfThreads
import Foundation
import HostRuntime
import OPTModel
import Synchronization
import SystemPackage
import Testing

@testable import Engine

/// Allocations are counted for the threads that compute: other tests may run meanwhile.
@Suite struct AllocationTests {
    @Test(arguments: [1, 3]) func `a decode step allocates nothing after the first`(batchSize: Int)
        async throws
    {
        var options = Engine.Options()
        options.computesOn = .cpu
        let engine = try await Engine.load(
            .folder(Fixtures.golden("pre-norm/safetensors")), options: options)
        let allocations = try await engine.leader.perform {
            let state = try engine.decoder.makeState(
                capacities: Array(repeating: 100, count: batchSize))
            var options = GenerationOptions()
            options.temperature = 0.8
            options.topK = 20
            options.topP = 0.9
            options.repetitionPenalty = 1.1
            let sampler = Sampler(
                options, seed: 1, vocabularySize: engine.configuration.vocabularySize,
                sequenceCount: batchSize, endOfSequence: 2)
            func step(_ index: Int) throws {
                try engine.decoder.step(state) { sequence, output in
                    guard case .logits(let logits) = output else { return }
                    state.nextTokens[sequence] = sampler.next(logits, sequence: sequence, step: index)
                }
            }
            let isCancelled = Atomic<Bool>(false)
            let prompts = Array(repeating: [2, 5, 7] as [Int32], count: batchSize)
            _ = try engine.decoder.prefill(prompts, state: state, isCancelled: isCancelled) { sequence, _ in
                state.nextTokens[sequence] = 9
                state.isActive[sequence] = true
            }
            try step(0)
            return try AllocationsOfThreads(engine.pool).least(of: 8, engine.pool) { round in
                for index in 1...8 { try step(8 * round + index) }
            }
        }
        #expect(allocations == 0)
    }

    @Test func `the counter sees an allocation`() {
        let before = tandem_allocations_of_this_thread()
        let memory = UnsafeMutablePointer<Int>.allocate(capacity: 100)
        memory.initialize(repeating: 1, count: 100)
        #expect(tandem_allocations_of_this_thread() > before)
        memory.deallocate()
    }
}

enum Fixtures {
    private static let root = FilePath(#filePath).removingLastComponent().removingLastComponent()
        .removingLastComponent()

    static func golden(_ name: String) -> FilePath {
        root.appending("Tests/Fixtures/Golden").pushing(FilePath(name))
    }

    static let storybook = root.appending("Models/storybook")
}
