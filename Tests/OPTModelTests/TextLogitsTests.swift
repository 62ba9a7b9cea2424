import CUDA
import Placement
import Testing

@testable import OPTModel

/// Logits of every row of a text, in runs over the cache of what came before, as scoring a text wants them.
@Suite struct TextLogitsTests {
    static let cases = GoldenCase.all.filter { $0.checkpoint.hasPrefix("safetensors") }
    /// Rows whose logits are wanted at a time: decode steps, few rows, more than few, all at once.
    static let rowCounts = [1, 7, 40, 200]

    @Test(arguments: cases, rowCounts)
    func `every row has the logits that it has as the last row`(golden: GoldenCase, rowCount: Int) throws {
        let model = try LoadedModel(golden.folder, kernels: fastestKernels!, workerCount: 2)
        let text = golden.text
        let logits = try model.logits(of: text, rowCount: rowCount)
        try golden.expect(logits)
        // Row by row, from the first on.
        let state = try model.decoder.makeState(capacities: [text.count])
        for (row, token) in text.enumerated() {
            try model.decoder.append([token], logitsCount: 1, to: 0, state: state) {
                #expect(relativeError(logits[row], Array($0)) < GoldenTests.tolerance)
            }
        }
    }

    @Test func `context goes without logits, in as many passes as it takes`() throws {
        let golden = try #require(Self.cases.first { $0.name == "pre-norm" })
        let model = try LoadedModel(
            golden.folder, kernels: fastestKernels!, workerCount: 1, rowCapacity: 16)
        let text = golden.text
        for scoredCount in [1, 5, 16] {
            let state = try model.decoder.makeState(capacities: [text.count], logitsCount: scoredCount)
            var calls = 0
            try model.decoder.append(text, logitsCount: scoredCount, to: 0, state: state) { logits in
                calls += 1
                let width = model.configuration.vocabularySize
                #expect(logits.count == scoredCount * width)
                let last = try? golden.logits(golden.prompts.count - 1).last
                #expect(relativeError(Array(logits.suffix(width)), last!) < GoldenTests.tolerance)
            }
            #expect(calls == 1 && state.length(of: 0) == text.count)
        }
    }

    @Test(arguments: cases, [2, 3])
    func `processes that share a model give every row's logits to rank 0`(golden: GoldenCase, size: Int)
        throws
    {
        let errors = try inThreadGroup(of: size, golden) { model, _ in
            for rowCount in [7, 200] {
                try golden.expect(try model.logits(of: golden.text, rowCount: rowCount))
            }
        }
        #expect(errors.allSatisfy { $0 == nil }, "\(errors)")
    }
}

extension EmulatedGPUTests {
    @Suite(.serialized) struct TextLogitsTests {
        static let cases = LaneTests.cases.filter { ["pre-norm", "post-norm", "odd"].contains($0.name) }

        private func expectGolden(_ golden: GoldenCase, _ model: () throws -> LoadedModel) throws {
            EmulatedGPU.isConcurrent = true
            defer { EmulatedGPU.isConcurrent = false }
            let model = try model()
            for rowCount in OPTModelTests.TextLogitsTests.rowCounts {
                let text = golden.text
                try golden.expect(try model.logits(of: text, rowCount: rowCount))
            }
        }

        @Test(arguments: cases, GPUGoldenTests.placements)
        func `every row has its logits, wherever the weights lie`(
            golden: GoldenCase, placement: [Double]
        ) throws {
            try expectGolden(golden) {
                try LoadedModel(
                    golden.folder, onGPU: try PlacementRequest(perLayerPercent: placement),
                    context: try EmulatedGPU.context())
            }
        }

        @Test(arguments: cases, [[0, 0], [40, 30], [0, 100]] as [[Double]])
        func `every row has its logits, wherever the cache lies`(golden: GoldenCase, cache: [Double]) throws {
            let request = try PlacementRequest(
                perLayerPercent: GPUGoldenTests.placements[4], cachePercent: cache)
            try expectGolden(golden) {
                try LoadedModel(golden.folder, onGPU: request, context: try EmulatedGPU.context())
            }
        }

        @Test(
            arguments: cases,
            [(0, 0, 0), (0, 40, 20), (30, 70, 70), (70, 70, 0)] as [(Double, Double, Double)])
        func `every row has its logits, whoever computes what`(
            golden: GoldenCase, percent: (weights: Double, computation: Double, cache: Double)
        ) throws {
            let split = CPUShareCases.Split(
                weights: percent.weights, computation: percent.computation, cache: percent.cache)
            try expectGolden(golden) {
                try LoadedModel(
                    golden.folder, onGPU: try split.request, context: try EmulatedGPU.context(),
                    cpu: LoadedModel.CPUPart())
            }
        }
    }
}

/// The same on this machine's GPU.
@Suite(.serialized, .takesTurnsOnGPU, .enabled(if: GPUMachine.isPresent, "there is no GPU"))
struct GPUTextLogitsTests {
    @Test(arguments: TextLogitsTests.cases, [0.0, 50, 100])
    func `every row has its logits, whoever computes what`(golden: GoldenCase, weights: Double) throws {
        let split = CPUShareCases.Split(weights: weights, computation: max(weights, 60), cache: weights)
        let model = try LoadedModel(golden.folder, onGPU: try split.request, cpu: LoadedModel.CPUPart())
        for rowCount in TextLogitsTests.rowCounts {
            try golden.expect(try model.logits(of: golden.text, rowCount: rowCount))
        }
    }
}

extension LoadedModel {
    /// [tokens, vocabulary]: what the model says behind every token, in runs of `rowCount`.
    func logits(of text: [Int32], rowCount: Int) throws -> [[Float]] {
        let rowCount = min(rowCount, text.count)
        let state = try decoder.makeState(capacities: [text.count], logitsCount: rowCount)
        let width = configuration.vocabularySize
        var rows: [[Float]] = []
        for first in stride(from: 0, to: text.count, by: rowCount) {
            let run = Array(text[first..<min(first + rowCount, text.count)])
            try decoder.append(run, logitsCount: run.count, to: 0, state: state) { logits in
                for row in 0..<run.count { rows.append(Array(logits[row * width..<(row + 1) * width])) }
            }
        }
        precondition(rows.count == text.count)
        return rows
    }
}

extension GoldenCase {
    /// The longest prompt with the tokens behind it, whose last was chosen and not run.
    var text: [Int32] { Array((prompts.last!.ids + prompts.last!.tokens).dropLast()) }

    /// Holds the logits of the text's rows against transformers', which are known of two of them.
    func expect(_ logits: [[Float]]) throws {
        let reference = try self.logits(prompts.count - 1)
        let first = logits[prompts.last!.ids.count - 1]
        #expect(relativeError(first, reference.first) < GoldenTests.tolerance)
        #expect(relativeError(logits.last!, reference.last) < GoldenTests.tolerance)
    }
}
