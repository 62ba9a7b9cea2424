import CPUKernels
import Checkpoints
import HostRuntime
import Synchronization
import Testing

@testable import OPTModel

/// Logits and greedy tokens against transformers' `OPTForCausalLM` in fp32.
@Suite(.serialized) struct GoldenTests {
    /// ‖Δ‖ / ‖reference‖ of a step's logits; caches round keys and values to fp16.
    static let tolerance = 2e-3

    @Test(arguments: GoldenCase.all, [TANDEM_PORTABLE, TANDEM_AVX2, TANDEM_AVX512])
    func `logits and greedy tokens are those of transformers`(
        golden: GoldenCase, instructionSet: tandem_instruction_set
    ) throws {
        guard let kernels = tandem_cpu_kernels_for(instructionSet) else { return }
        let model = try LoadedModel(golden.folder, kernels: kernels, workerCount: 2)
        for (index, prompt) in golden.prompts.enumerated() {
            let reference = try golden.logits(index)
            let result = try model.decodeGreedily([prompt.ids], steps: prompt.tokens.count)
            #expect(result.tokens[0] == prompt.tokens)
            #expect(relativeError(result.firstLogits[0], reference.first) < Self.tolerance)
            #expect(relativeError(result.lastLogits[0], reference.last) < Self.tolerance)
        }
    }

    @Test(arguments: GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }, [1, 2, 3])
    func `a ragged batch gives each prompt the tokens that it gets alone`(
        golden: GoldenCase, workerCount: Int
    ) throws {
        let kernels = try #require(fastestKernels)
        let model = try LoadedModel(golden.folder, kernels: kernels, workerCount: workerCount)
        let result = try model.decodeGreedily(
            golden.prompts.map(\.ids), steps: golden.prompts[0].tokens.count)
        for (index, prompt) in golden.prompts.enumerated() {
            let reference = try golden.logits(index)
            #expect(result.tokens[index] == prompt.tokens)
            #expect(relativeError(result.firstLogits[index], reference.first) < Self.tolerance)
            #expect(relativeError(result.lastLogits[index], reference.last) < Self.tolerance)
        }
    }
}

/// The fastest kernels of this processor.
var fastestKernels: UnsafePointer<tandem_cpu_kernels>? {
    tandem_cpu_kernels_for(TANDEM_AVX512_VNNI) ?? tandem_cpu_kernels_for(TANDEM_AVX512)
        ?? tandem_cpu_kernels_for(TANDEM_AVX2)
        ?? tandem_cpu_kernels_for(TANDEM_PORTABLE)
}
