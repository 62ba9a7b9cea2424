import Glibc
import OPTModel

/// Chooses each sequence's next token from its logits.
///
/// The order is transformers': repetition penalty, minimum length, temperature, top-k, top-p, draw. The draw is a
/// pure function of seed, sequence and step, so that it does not depend on what else is decoded, or where. The
/// memory is made once.
struct Sampler: ~Copyable {
    private let options: GenerationOptions
    private let seed: UInt64
    private let vocabularySize: Int
    private let endOfSequence: Int32
    /// Candidates, a max-heap by weight while they are taken.
    private let candidates: UnsafeMutablePointer<Candidate>
    /// Which tokens have occurred, [sequence, vocabulary]; empty without a repetition penalty.
    private let hasOccurred: UnsafeMutableBufferPointer<Bool>

    private struct Candidate {
        var token: Int32
        var weight: Float

        /// Equal weights stand in the order of the vocabulary, on every lane.
        @inline(__always)
        func isLikelier(than other: Candidate) -> Bool {
            weight > other.weight || (weight == other.weight && token < other.token)
        }
    }

    init(
        _ options: GenerationOptions, seed: UInt64, vocabularySize: Int, sequenceCount: Int,
        endOfSequence: Int32
    ) {
        self.options = options
        self.seed = seed
        self.vocabularySize = vocabularySize
        self.endOfSequence = endOfSequence
        candidates = .allocate(capacity: vocabularySize)
        hasOccurred = .allocate(
            capacity: options.repetitionPenalty == 1 ? 0 : sequenceCount * vocabularySize)
        hasOccurred.initialize(repeating: false)
    }

    deinit {
        candidates.deallocate()
        hasOccurred.deallocate()
    }

    /// Counts a token of `sequence`'s text for the repetition penalty.
    func note(_ token: Int32, sequence: Int) {
        if !hasOccurred.isEmpty { hasOccurred[sequence * vocabularySize + Int(token)] = true }
    }

    /// How a lane can choose the `step`-th token itself; nil where it takes the logits.
    func choice(sequence: Int, step: Int) -> TokenChoice? {
        if !hasOccurred.isEmpty || options.topLogProbabilities != nil { return nil }
        return TokenChoice(
            temperature: options.temperature, topK: options.topK, topP: options.topP,
            uniform: options.temperature == 0 ? 0 : uniformDraw(seed: seed, sequence: sequence, step: step),
            forbidden: step < options.minimumTokens ? endOfSequence : nil)
    }

    /// The token that follows, the `step`-th that is generated. The logits are changed by it.
    func next(_ logits: UnsafeMutableBufferPointer<Float>, sequence: Int, step: Int) -> Int32 {
        penalizeRepetition(logits, sequence: sequence)
        if step < options.minimumTokens { logits[Int(endOfSequence)] = -.infinity }
        let likeliest = indexOfMaximum(UnsafeBufferPointer(logits))
        let token = options.temperature == 0 ? likeliest : draw(logits, likeliest, sequence, step)
        note(token, sequence: sequence)
        return token
    }

    private func penalizeRepetition(_ logits: UnsafeMutableBufferPointer<Float>, sequence: Int) {
        if hasOccurred.isEmpty { return }
        let penalty = options.repetitionPenalty
        let occurred = hasOccurred.baseAddress! + sequence * vocabularySize
        for token in 0..<vocabularySize where occurred[token] {
            logits[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty
        }
    }

    private func draw(
        _ logits: UnsafeMutableBufferPointer<Float>, _ likeliest: Int32, _ sequence: Int, _ step: Int
    ) -> Int32 {
        let maximum = logits[Int(likeliest)]
        let scale = 1 / options.temperature
        var total: Float = 0
        for token in 0..<vocabularySize {
            let weight = expf((logits[token] - maximum) * scale)
            candidates[token] = Candidate(token: Int32(token), weight: weight)
            total += weight
        }
        let uniform = uniformDraw(seed: seed, sequence: sequence, step: step)
        guard options.topK > 0 || options.topP < 1 else {
            return pick(count: vocabularySize, total: total, uniform)
        }
        let keptCount = keepLikeliest(total: total)
        total = 0
        for index in 0..<keptCount { total += candidates[index].weight }
        return pick(count: keptCount, total: total, uniform)
    }

    /// The candidate at which the running sum passes `uniform` of the total.
    private func pick(count: Int, total: Float, _ uniform: Float) -> Int32 {
        var rest = uniform * total
        for index in 0..<count {
            rest -= candidates[index].weight
            if rest < 0 { return candidates[index].token }
        }
        // Rounding may leave a little: the last candidate that has a chance takes it.
        var index = count - 1
        while index > 0 && candidates[index].weight == 0 { index -= 1 }
        return candidates[index].token
    }

    /// Moves the candidates that top-k and top-p leave to the front, likeliest first; returns how many.
    private func keepLikeliest(total: Float) -> Int {
        // All tokens below this weight together are less than 1 - p: none of them is among those kept.
        let threshold = options.topK > 0 ? 0 : (1 - options.topP) * total / Float(vocabularySize)
        var count = 0
        for index in 0..<vocabularySize where candidates[index].weight >= threshold {
            candidates[count] = candidates[index]
            count += 1
        }
        for root in stride(from: count / 2 - 1, through: 0, by: -1) { siftDown(root, count: count) }
        // The likeliest go to the end of the heap's memory, one after the other.
        let limit = options.topK > 0 ? min(options.topK, count) : count
        var taken = 0
        var sum: Float = 0
        while taken < limit {
            let last = count - 1 - taken
            swap(&candidates[0], &candidates[last])
            sum += candidates[last].weight
            taken += 1
            siftDown(0, count: last)
            if options.topK == 0 && sum >= options.topP * total { break }
        }
        for index in 0..<taken / 2 {
            swap(&candidates[count - taken + index], &candidates[count - 1 - index])
        }
        for index in 0..<taken { candidates[index] = candidates[count - taken + index] }
        if options.topK == 0 || options.topP >= 1 { return taken }
        // After top-k, top-p counts in what top-k has left.
        var kept = 0
        var running: Float = 0
        while kept < taken && running < options.topP * sum {
            running += candidates[kept].weight
            kept += 1
        }
        return max(1, kept)
    }

    private func siftDown(_ start: Int, count: Int) {
        var root = start
        while true {
            var child = 2 * root + 1
            if child >= count { return }
            if child + 1 < count && candidates[child + 1].isLikelier(than: candidates[child]) { child += 1 }
            if !candidates[child].isLikelier(than: candidates[root]) { return }
            swap(&candidates[root], &candidates[child])
            root = child
        }
    }
}

/// The first index of the largest value.
func indexOfMaximum(_ values: UnsafeBufferPointer<Float>) -> Int32 {
    var best = 0
    for index in 1..<max(1, values.count) where values[index] > values[best] { best = index }
    return Int32(best)
}

/// A number in [0, 1) that depends on nothing but its arguments (the SplitMix64 mix of their combination).
func uniformDraw(seed: UInt64, sequence: Int, step: Int) -> Float {
    func mix(_ value: UInt64) -> UInt64 {
        var z = value &+ 0x9E37_79B9_7F4A_7C15
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
    let bits = mix(mix(mix(seed) ^ UInt64(sequence)) ^ UInt64(step))
    return Float(bits >> 40) * 0x1p-24
}
