import TensorCore
import Testing

@testable import Placement

/// Choices from made-up predictions and losses.
struct CompressionChoiceTests {
    private typealias Prediction = CompressionChoice.Prediction

    private func form(_ weights: Int, _ cache: Int = 16) -> CompressionForm {
        CompressionForm(Quantization(bits: weights), compressesCache: cache == 4)
    }

    /// Steps of as many milliseconds as a weight has bits, and a half less with a 4-bit cache.
    private func predictions(_ change: (CompressionForm) -> Prediction? = { _ in nil })
        -> [(form: CompressionForm, prediction: Prediction)]
    {
        CompressionForm.all.map {
            ($0, change($0) ?? .seconds(Double($0.weightBits) * 1e-3 - ($0.compressesCache ? 5e-4 : 0)))
        }
    }

    private let losses = [
        "weights in 4 bits, cache in 4": 0.034, "weights in 4 bits": 0.024,
        "weights in 8 bits, cache in 4": 0.012,
        "weights in 8 bits": 0.0001, "cache in 4 bits": 0.012,
    ]

    /// The forms that are asked for, in order, until the choice is made.
    private func asked(_ choice: inout CompressionChoice) -> [CompressionForm] {
        var asked: [CompressionForm] = []
        while let form = choice.undecided {
            #expect(choice.chosen == nil)
            asked.append(form)
            choice.record(PerplexityLoss(losses[form.label]!, standardError: 0.001), of: form)
        }
        return asked
    }

    @Test func `the fastest form within the bound is chosen, and no slower one measured`() {
        let expected: [(bound: Double, form: CompressionForm, measured: Int)] = [
            (0.05, form(4, 4), 1), (0.034, form(4, 4), 1), (0.03, form(4), 2), (0.02, form(8, 4), 3),
            (0.01, form(8), 4), (0, .fp16, 5),
        ]
        for (bound, form, measured) in expected {
            var choice = CompressionChoice(predictions(), maximumLoss: bound)
            let order = asked(&choice)
            #expect(choice.chosen == form, "\(bound)")
            #expect(order == choice.candidates.prefix(measured).map(\.form), "\(bound)")
            #expect(choice.candidates.count { $0.loss != nil && $0.form != .fp16 } == measured)
        }
    }

    @Test func `candidates are in the order of speed, and of more bits where that is alike`() {
        let choice = CompressionChoice(
            predictions { .seconds($0.weightBits == 4 ? 2 : 1) }, maximumLoss: 0.01)
        #expect(
            choice.candidates.map(\.form) == [
                .fp16, form(16, 4), form(8), form(8, 4), form(4), form(4, 4),
            ])
        // What loses nothing is not measured.
        #expect(choice.chosen == .fp16 && choice.undecided == nil)
    }

    @Test func `what is not possible is not asked for and said last, with its reason`() {
        var choice = CompressionChoice(
            predictions { $0.compressesCache ? .impossible("no such cache") : nil }, maximumLoss: 0.03)
        #expect(asked(&choice) == [form(4)] && choice.chosen == form(4))
        let lines = choice.reportLines
        #expect(lines.count == 7 && lines[0].contains("at most 3 % more perplexity"))
        #expect(
            lines[1].hasPrefix("  weights in 4 bits ") && lines[1].hasSuffix("2.40 ± 0.10 % more: chosen"))
        #expect(lines[1].contains(" 4.00 ms a token predicted"))
        #expect(lines[2].contains("loss not measured: slower"))
        #expect(lines[3].contains("no loss: slower than the chosen one"))
        #expect(lines.suffix(3).allSatisfy { $0.hasSuffix("not possible: no such cache") })
    }

    @Test func `where nothing is within the bound, nothing is chosen`() {
        var choice = CompressionChoice(
            predictions { $0 == .fp16 ? .impossible("no room") : nil }, maximumLoss: 0)
        #expect(asked(&choice).count == 5)
        #expect(choice.chosen == nil && choice.undecided == nil)
        #expect(choice.reportLines.count { $0.hasSuffix("too much") } == 5)
        choice.record(PerplexityLoss(.nan), of: form(8))
        #expect(choice.chosen == nil, "what is no number is not within a bound")
        choice.record(PerplexityLoss(-0.001), of: form(8))
        #expect(choice.chosen == form(8))
        #expect(choice.reportLines.contains { $0.hasSuffix("0.10 % less: chosen") })
    }

    @Test func `a form's flags are those that ask for it`() {
        let arguments = CompressionForm.all.map { $0.arguments.joined(separator: " ") }
        #expect(
            arguments == [
                "", "--compress-cache", "--compress-weight --weight-bits 8",
                "--compress-weight --weight-bits 8 --compress-cache", "--compress-weight",
                "--compress-weight --compress-cache",
            ])
        #expect(CompressionForm.all.allSatisfy { ($0.quantization?.bits ?? 16) == $0.weightBits })
    }
}
