import CUDAKernelImage
import Glibc

/// Choosing tokens: greedy, and draws whose outcome rounding cannot change.
extension GPUOperationCase {
    static let sampleCases: [GPUOperationCase] = {
        var cases: [GPUOperationCase] = []
        for (vocabulary, rows) in [(1001, 3), (50272, 1)] {
            func add(_ name: String, _ rule: SampleRule) {
                cases.append(sample(vocabulary, rows, name, rule))
            }
            add("greedy", SampleRule(temperature: 0))
            add("greedy, one forbidden", SampleRule(temperature: 0, forbidsLikeliest: true))
            add("temperature 0.7", SampleRule(temperature: 0.7))
            add("temperature 1.5", SampleRule(temperature: 1.5))
            add("top-k 5", SampleRule(topK: 5))
            add("top-k 1", SampleRule(topK: 1))
            add("top-p 0.8", SampleRule(topP: 0.8))
            add(
                "temperature 1.2, top-k 9, top-p 0.7, one forbidden",
                SampleRule(temperature: 1.2, topK: 9, topP: 0.7, forbidsLikeliest: true))
        }
        return cases
    }()

    private struct SampleRule {
        var temperature: Float = 1
        var topK: UInt32 = 0
        var topP: Float = 1
        var forbidsLikeliest = false
    }

    /// Draws that are nearer to another outcome, as a share of all probability, are drawn again.
    private static let clearMargin = 1e-4
    private static let mostDraws = 1000

    private static func sample(_ vocabulary: Int, _ rows: Int, _ name: String, _ rule: SampleRule)
        -> GPUOperationCase
    {
        let sizes = "\(rows) \(rows == 1 ? "row" : "rows") of \(vocabulary), \(name)"
        return GPUOperationCase(operation: .sample, sizes: sizes) { workbench in
            var logits: [Float] = []
            var choices: [tandem_gpu_choice] = []
            var expected: [Int32] = []
            for _ in 0..<rows {
                var row = logitsWithPeaks(vocabulary, &workbench.random)
                // Of equals, the first is meant.
                if rule.temperature == 0 { row[vocabulary - 1] = row.max()! }
                let (choice, token) = try clearChoice(row, rule, &workbench.random)
                logits += row
                choices.append(choice)
                expected.append(token)
            }
            let judged = expected
            let step: UInt32 = 17
            let tokens = try workbench.reserve(rows, of: Int32.self)
            let counter = try workbench.upload([UInt32(0)])
            let sequenceNumber = try workbench.reserve(1, of: UInt32.self)
            let arguments = tandem_gpu_sample(
                logits: try workbench.upload(logits), choices: try workbench.upload(choices), tokens: tokens,
                counter: counter, step: try workbench.upload([step]), sequence_number: sequenceNumber,
                rows: UInt32(rows), vocabulary: UInt32(vocabulary))
            return Trial {
                try workbench.kernels.sample(arguments, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(tokens, rows, of: Int32.self)
                for row in 0..<rows where found[row] != judged[row] {
                    deviation.note("row \(row) chose \(found[row]) instead of \(judged[row])")
                }
                let number = try workbench.download(sequenceNumber, 1, of: UInt32.self)[0]
                deviation.note("the step's number is \(number) instead of \(step)", unless: number == step)
                let count = try workbench.download(counter, 1, of: UInt32.self)[0]
                deviation.note("its counter is not zero afterwards", unless: count == 0)
                return deviation
            }
        }
    }

    /// Most tokens have little chance together, and a dozen have much each.
    private static func logitsWithPeaks(_ vocabulary: Int, _ random: inout RandomValues) -> [Float] {
        var logits = random.floats(vocabulary, scale: 5).map { $0 - 5 }
        let base = logf(Float(vocabulary))
        for peak in 0..<12 {
            let token = (peak * vocabulary + random.index(below: vocabulary)) / 12
            logits[token] = base + Float(peak % 5) * 0.4 + random.uniform() * 0.3
        }
        return logits
    }

    private static func clearChoice(
        _ logits: [Float], _ rule: SampleRule, _ random: inout RandomValues
    ) throws -> (tandem_gpu_choice, token: Int32) {
        var choice = tandem_gpu_choice(
            temperature: rule.temperature, top_p: rule.topP, top_k: rule.topK, uniform: 0, forbidden: -1,
            reserved: 0)
        if rule.forbidsLikeliest {
            var greedy = choice
            greedy.temperature = 0
            choice.forbidden = ScalarReference.choose(logits, greedy).token
        }
        for _ in 0..<mostDraws {
            choice.uniform = random.uniform()
            let reference = ScalarReference.choose(logits, choice)
            if reference.margin >= clearMargin { return (choice, reference.token) }
        }
        throw ModelError(.gpu, "no draw is clear")
    }
}
