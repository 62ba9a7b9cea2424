import CPUKernels
import CUDAKernelImage
import Glibc
import Testing

@testable import OPTModel

/// The scalar references against values that were worked out by hand; `GPUOperationCheckTests` holds them against the
/// CPU's kernels.
struct ScalarReferenceTests {
    @Test func `a product takes weights by their stride`() {
        // 1 · 10 + 2 · 30, from the second element of x on
        #expect(
            ScalarReference.product([9, 1, 2], at: 1, [7, 10, 20, 30], at: 1, stride: 2, count: 2) == 70)
    }

    @Test func `activations are those of modeling_opt`() {
        #expect(ScalarReference.activated(-2, 0) == -2)
        #expect(ScalarReference.activated(-2, UInt32(TANDEM_GPU_RELU)) == 0)
        #expect(ScalarReference.activated(3, UInt32(TANDEM_GPU_RELU)) == 3)
        // torch.nn.functional.gelu(torch.tensor(1.0))
        #expect(abs(ScalarReference.activated(1, UInt32(TANDEM_GPU_GELU)) - 0.841_344_746) < 1e-9)
    }

    @Test func `layer norm has mean 0 and variance 1 before weight and bias`() {
        let y = ScalarReference.layerNorm(
            [0, 1, 3], at: 1, width: 2, weight: [1, 10], bias: [5, 0], epsilon: 0)
        #expect(y == [4, 10])
    }

    @Test func `attention weighs values by softmax of scaled scores`() {
        // Scores ln 3 and 0: weights 3/4 and 1/4.
        let key = Float16(logf(3) * 2)
        let out = ScalarReference.attention(
            [0, 1], at: 1, cache: [key, 0, 8, 4], keysAt: 0, valuesAt: 2, count: 2, dimension: 1, scale: 0.5)
        #expect(abs(out[0] - 7) < 1e-3)
    }

    @Test func `choices tell how far they are from another one`() {
        func choose(_ weights: [Float], _ change: (inout tandem_gpu_choice) -> Void)
            -> ScalarReference.Choice
        {
            var choice = tandem_gpu_choice(
                temperature: 1, top_p: 1, top_k: 0, uniform: 0, forbidden: -1, reserved: 0)
            change(&choice)
            return ScalarReference.choose(weights.map { logf($0) }, choice)
        }
        let weights: [Float] = [0.1, 0.4, 0.2, 0.3]
        #expect(choose(weights) { $0.temperature = 0 }.token == 1)
        #expect(
            choose(weights) {
                $0.temperature = 0
                $0.forbidden = 1
            }.token == 3)
        let drawn = choose(weights) { $0.uniform = 0.55 }
        #expect(drawn.token == 2 && abs(drawn.margin - 0.05) < 1e-6)
        // 0.4 and 0.3 are left, likeliest first.
        let ofTwo = choose(weights) {
            $0.top_k = 2
            $0.uniform = 0.6
        }
        #expect(ofTwo.token == 3 && abs(ofTwo.margin - (0.6 - 4.0 / 7)) < 1e-6)
        // 0.4, 0.3 and 0.2 are left; without the last it would be 0.7 of 0.72.
        let nucleus = choose(weights) {
            $0.top_p = 0.72
            $0.uniform = 0.9
        }
        #expect(nucleus.token == 2 && abs(nucleus.margin - 0.02) < 1e-6)
        #expect(choose([1, 2, 2, 1]) { $0.top_k = 1 }.margin == 0)
        #expect(choose([1, 2, 2, 1]) { $0.top_k = 2 }.margin == 0)
    }
}
