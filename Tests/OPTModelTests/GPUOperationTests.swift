import CUDA
import Testing

@testable import OPTModel

/// Every operation of the GPU against its scalar reference.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct GPUOperationTests {
    @Test func `every GPU operation agrees with its scalar reference`() throws {
        let context = try Context(device: CUDADriver.load().device())
        let check = GPUOperationCheck(for: context.device)
        var resultCount = 0
        try check.run(on: context) { result in
            resultCount += 1
            #expect(result.passed, "\(result.sentence)")
        }
        #expect(resultCount == check.count)
    }
}

extension EmulatedGPUTests {
    /// The checks themselves, on a GPU that this processor emulates.
    @Suite(.serialized) struct GPUOperationCheckTests {
        private func results(_ defect: EmulatedGPU.Defect, isQuick: Bool) throws -> [GPUOperationResult] {
            EmulatedGPU.defect = defect
            defer { EmulatedGPU.defect = .none }
            let check = GPUOperationCheck(hasCopyEngine: false, isQuick: isQuick)
            var results: [GPUOperationResult] = []
            try check.run(on: EmulatedGPU.context()) { results.append($0) }
            return results
        }

        @Test func `the CPU's kernels pass every check, within the GPU's tolerances`() throws {
            let results = try results(.none, isQuick: false)
            #expect(results.count == GPUOperationCheck(hasCopyEngine: false).count)
            for result in results { #expect(result.passed, "\(result.sentence)") }
        }

        @Test func `kernels that do nothing pass no check`() throws {
            for result in try results(.idle, isQuick: true) where result.sizes != "for a flag that is set" {
                #expect(!result.passed, "\(result.sentence)")
            }
        }

        @Test func `a kernel that cannot be launched fails its check and is the last one`() throws {
            let results = try results(.failing, isQuick: false)
            #expect(results.count == 1)
            #expect(results[0].passed == false)
            #expect(results[0].fault?.contains("launching tandem_kernel_embed") == true)
        }

        @Test(arguments: [EmulatedGPU.Defect.wrongElement, .strayElement])
        func `one wrong element, and one behind the results, fails a check`(defect: EmulatedGPU.Defect) throws
        {
            let unspoilt: Set<GPUOperation> = [.signal, .wait, .read]
            for result in try results(defect, isQuick: true) where !unspoilt.contains(result.operation) {
                #expect(!result.passed, "\(result.sentence)")
            }
        }

        @Test func `a quick check has every operation`() {
            let quick = GPUOperationCheck(hasCopyEngine: true, isQuick: true)
            #expect(Set(quick.cases.map(\.operation)) == Set(GPUOperation.allCases))
            #expect(3 * quick.count < GPUOperationCheck(hasCopyEngine: true).count)
        }
    }
}
