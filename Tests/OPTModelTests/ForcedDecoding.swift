import Synchronization

@testable import OPTModel

/// Sequences that are given a golden case's own tokens, in runs of any lengths, and compared at every one: what a cache
/// holds shows in what comes next.
struct ForcedDecoding {
    let decoder: Decoder
    let state: DecoderState
    /// Each prompt with the greedy tokens behind it.
    let texts: [[Int32]]
    private let promptCounts: [Int]
    private(set) var comparisonCount = 0

    init(_ model: LoadedModel, _ golden: GoldenCase) throws {
        decoder = model.decoder
        texts = golden.prompts.map { $0.ids + $0.tokens }
        promptCounts = golden.prompts.map(\.ids.count)
        // Room for wrong tokens behind the last one.
        let most = model.configuration.maximumPositions
        state = try decoder.makeState(capacities: texts.map { min($0.count + 20, most) })
    }

    var cache: GPUKVCache { state.cache as! GPUKVCache }

    /// Whether any text is not at its end.
    var isUnfinished: Bool { texts.indices.contains { state.length(of: $0) < texts[$0].count } }

    /// Appends so many of its tokens to each sequence, as far as it has them; the sequences whose next token is wrong.
    mutating func advance(by counts: [Int]) throws -> [Int] {
        let runs = texts.indices.map { sequence in
            Array(texts[sequence].dropFirst(state.length(of: sequence)).prefix(counts[sequence]))
        }
        let ends = texts.indices.map { state.length(of: $0) + runs[$0].count }
        var faults: [Int] = []
        var compared = 0
        try run(runs) { sequence, token in
            let end = ends[sequence]
            if end < promptCounts[sequence] || end == texts[sequence].count { return }
            compared += 1
            if token != texts[sequence][end] { faults.append(sequence) }
        }
        comparisonCount += compared
        return faults
    }

    /// Appends wrong tokens to each sequence, as far as it has room, and takes them back, as a cancelled prefill does.
    func stray(by counts: [Int]) throws {
        let lengths = texts.indices.map { state.length(of: $0) }
        let runs = counts.enumerated().map { sequence, count -> [Int32] in
            let room = state.cache.capacities[sequence] - lengths[sequence]
            return Array(repeating: Int32(7), count: min(count, room))
        }
        try run(runs) { _, _ in }
        for (sequence, length) in lengths.enumerated() { state.truncate(sequence, to: length) }
    }

    private func run(_ runs: [[Int32]], _ body: (Int, Int32) -> Void) throws {
        let isCancelled = Atomic<Bool>(false)
        _ = try decoder.prefill(
            runs, state: state, isCancelled: isCancelled,
            choice: { _ in TokenChoice(temperature: 0, topK: 0, topP: 1, uniform: 0, forbidden: nil) }
        ) { sequence, output in
            if case .token(let token) = output { body(sequence, token) }
        }
    }
}
