import CUDAKernelImage
import Testing

@testable import Engine
@testable import OPTModel

/// The reference that the GPU's sampling is held against, against the sampler that the CPU uses.
struct ChoiceReferenceTests {
    @Test(arguments: [(0, 1), (0, 0.7), (6, 1), (9, 0.6)] as [(Int, Float)])
    func `clear draws give the sampler's token`(topK: Int, topP: Float) {
        var random = RandomValues(seed: 5)
        var options = GenerationOptions()
        options.temperature = 0.9
        options.topK = topK
        options.topP = topP
        let vocabulary = 300
        let sampler = Sampler(
            options, seed: 3, vocabularySize: vocabulary, sequenceCount: 1, endOfSequence: 0)
        var clearCount = 0
        for step in 0..<100 {
            var logits = random.floats(vocabulary, scale: 4)
            let choice = tandem_gpu_choice(
                temperature: options.temperature, top_p: topP, top_k: UInt32(topK),
                uniform: uniformDraw(seed: 3, sequence: 0, step: step), forbidden: -1, reserved: 0)
            let reference = ScalarReference.choose(logits, choice)
            if reference.margin < 1e-4 { continue }
            clearCount += 1
            let token = logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: step) }
            #expect(token == reference.token)
        }
        #expect(clearCount > 50)
    }
}
