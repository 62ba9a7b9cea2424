import CPUKernels
import Checkpoints
import HostRuntime
import Synchronization
import SystemPackage

@testable import OPTModel

/// A small model with its decoder, and the greedy loop that golden files are compared with.
struct LoadedModel {
    let decoder: Decoder
    let pool: WorkerPool
    var configuration: OPTConfiguration { decoder.weights.configuration }

    struct Result {
        var tokens: [[Int32]]
        /// The logits that chose each sequence's first token.
        var firstLogits: [[Float]]
        var lastLogits: [[Float]]
    }

    init(_ folder: FilePath, kernels: UnsafePointer<tandem_cpu_kernels>, workerCount: Int) throws {
        let configuration = try OPTConfiguration(folder: folder)
        try self.init(
            configuration, source: try CheckpointFiles(folder: folder), kernels: kernels,
            workerCount: workerCount)
    }

    init(
        _ configuration: OPTConfiguration, source: some TensorSource,
        kernels: UnsafePointer<tandem_cpu_kernels>, workerCount: Int
    ) throws {
        pool = WorkerPool(workerCount: workerCount)
        let weights = try OPTWeights(configuration, from: source, pool: pool, kernels: kernels) { _, _ in }
        decoder = try Decoder(weights, pool: pool, kernels: kernels)
    }

    func decodeGreedily(_ prompts: [[Int32]], steps: Int) throws -> Result {
        let state = try DecoderState(configuration, capacities: prompts.map { $0.count + steps }, pool: pool)
        var result = Result(
            tokens: prompts.map { _ in [] }, firstLogits: prompts.map { _ in [] },
            lastLogits: prompts.map { _ in [] })
        func choose(_ sequence: Int, _ logits: UnsafeMutableBufferPointer<Float>) {
            let token = Int32(logits.indices.max { logits[$0] < logits[$1] }!)
            if result.tokens[sequence].isEmpty { result.firstLogits[sequence] = Array(logits) }
            result.lastLogits[sequence] = Array(logits)
            result.tokens[sequence].append(token)
            state.nextTokens[sequence] = token
            state.isActive[sequence] = result.tokens[sequence].count < steps
        }
        let isCancelled = Atomic<Bool>(false)
        precondition(decoder.prefill(prompts, state: state, isCancelled: isCancelled, choose))
        while (0..<prompts.count).contains(where: { state.isActive[$0] }) { decoder.step(state, choose) }
        return result
    }
}
