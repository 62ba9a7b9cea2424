import Foundation
import Testing

@testable import Engine

struct SamplerTests {
    /// How often each token is drawn, over many steps, from the logarithms of `weights`.
    private func frequencies(_ weights: [Float], _ change: (inout GenerationOptions) -> Void) -> [Double] {
        var options = GenerationOptions()
        options.temperature = 1
        change(&options)
        let sampler = Sampler(
            options, seed: 42, vocabularySize: weights.count, sequenceCount: 1, endOfSequence: 0)
        let drawCount = 20_000
        var counts = [Int](repeating: 0, count: weights.count)
        for step in 0..<drawCount {
            var logits = weights.map { logf($0) }
            counts[
                logits.withUnsafeMutableBufferPointer { Int(sampler.next($0, sequence: 0, step: step)) }] += 1
        }
        return counts.map { Double($0) / Double(drawCount) }
    }

    private func expect(
        _ found: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for (found, expected) in zip(found, expected) {
            // Four standard deviations of a frequency over 20,000 draws.
            #expect(abs(found - expected) < 0.015, sourceLocation: sourceLocation)
            #expect((expected == 0) == (found == 0), sourceLocation: sourceLocation)
        }
    }

    @Test func `temperature 0 takes the likeliest token, the first of equals`() {
        let sampler = Sampler(
            GenerationOptions(), seed: 0, vocabularySize: 4, sequenceCount: 1, endOfSequence: 0)
        var logits: [Float] = [1, 3, 3, 2]
        #expect(logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: 0) } == 1)
    }

    @Test func `draws follow the probabilities`() {
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { _ in }, [0.1, 0.2, 0.3, 0.4])
    }

    @Test func `temperature sharpens and flattens`() {
        // p ^ (1 / T), normalized
        expect(frequencies([0.25, 0.75]) { $0.temperature = 0.5 }, [0.1, 0.9])
        expect(frequencies([0.1, 0.9]) { $0.temperature = 2 }, [0.25, 0.75])
    }

    @Test func `top-k leaves the k likeliest`() {
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topK = 2 }, [0, 0, 3.0 / 7, 4.0 / 7])
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topK = 9 }, [0.1, 0.2, 0.3, 0.4])
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topK = 1 }, [0, 0, 0, 1])
    }

    @Test func `top-p leaves the fewest tokens that hold p`() {
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topP = 0.65 }, [0, 0, 3.0 / 7, 4.0 / 7])
        expect(frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topP = 0.35 }, [0, 0, 0, 1])
        expect(
            frequencies([0.1, 0.2, 0.3, 0.4]) { $0.topP = 0.75 }, [0, 2.0 / 9, 3.0 / 9, 4.0 / 9])
    }

    @Test func `top-p counts in what top-k has left`() {
        // Of 3/7 and 4/7, the larger alone holds half.
        expect(
            frequencies([0.1, 0.2, 0.3, 0.4]) {
                $0.topK = 2
                $0.topP = 0.5
            }, [0, 0, 0, 1])
    }

    @Test func `top-k and top-p take the same tokens from a large vocabulary as sorting does`() {
        var generator = SystemRandomNumberGenerator()
        let weights = (0..<5000).map { _ in powf(Float.random(in: 0..<1, using: &generator), 20) + 1e-6 }
        let total = weights.reduce(0, +)
        let sorted = weights.sorted(by: >)
        var kept = 0
        var sum: Float = 0
        while sum < 0.8 * total {
            sum += sorted[kept]
            kept += 1
        }
        let found = frequencies(weights) { $0.topP = 0.8 }
        for (token, frequency) in found.enumerated() where frequency > 0 {
            #expect(weights[token] >= sorted[min(kept, 4999)])
        }
    }

    @Test func `the repetition penalty weakens tokens that occurred, whatever their sign`() {
        var options = GenerationOptions()
        options.repetitionPenalty = 2
        let sampler = Sampler(options, seed: 0, vocabularySize: 3, sequenceCount: 2, endOfSequence: 0)
        sampler.note(1, sequence: 0)
        var logits: [Float] = [0.6, 1, -3]
        #expect(logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: 0) } == 0)
        logits = [-1.5, -1, -3]
        #expect(logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: 0) } == 1)
        logits = [0.6, 1, -3]
        #expect(logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 1, step: 0) } == 1)
    }

    @Test func `before the minimum the end-of-sequence token is never chosen`() {
        var options = GenerationOptions()
        options.minimumTokens = 2
        let sampler = Sampler(options, seed: 0, vocabularySize: 3, sequenceCount: 1, endOfSequence: 1)
        for (step, expected) in [(0, 2), (1, 2), (2, 1)] {
            var logits: [Float] = [0, 5, 1]
            let token = logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: step) }
            #expect(token == Int32(expected))
        }
    }

    @Test func `a draw depends on seed, sequence and step alone`() {
        #expect(uniformDraw(seed: 1, sequence: 2, step: 3) == uniformDraw(seed: 1, sequence: 2, step: 3))
        let draws = (0..<3000).map {
            uniformDraw(seed: UInt64($0 % 10), sequence: $0 / 10 % 10, step: $0 / 100)
        }
        #expect(Set(draws).count > 2990)
        #expect(draws.allSatisfy { $0 >= 0 && $0 < 1 })
        #expect(abs(draws.reduce(0, +) / 3000 - 0.5) < 0.03)
    }

    @Test func `log-probabilities of the likeliest tokens are sorted and sum to at most one`() {
        let logits: [Float] = [1, 4, 2, 3, 0]
        logits.withUnsafeBufferPointer { logits in
            let all = likeliestTokens(logits, count: 9, logSumExp: logSumExp(logits))
            #expect(all.map(\.token) == [1, 3, 2, 0, 4])
            #expect(abs(all.reduce(0) { $0 + expf($1.logProbability) } - 1) < 1e-5)
            #expect(likeliestTokens(logits, count: 2, logSumExp: 0).map(\.token) == [1, 3])
            #expect(likeliestTokens(logits, count: 0, logSumExp: 0).isEmpty)
        }
    }

    @Test func `of equally likely tokens top-k keeps the first, and draws in their order`() {
        var options = GenerationOptions()
        options.temperature = 1
        options.topK = 3
        let sampler = Sampler(options, seed: 1, vocabularySize: 40, sequenceCount: 1, endOfSequence: 0)
        for step in 0..<64 {
            var logits = [Float](repeating: 0.5, count: 40)
            let token = logits.withUnsafeMutableBufferPointer { sampler.next($0, sequence: 0, step: step) }
            #expect(token == Int32(uniformDraw(seed: 1, sequence: 0, step: step) * 3))
        }
    }
}

struct StopMatcherTests {
    private func run(_ stops: [String], _ pieces: [String]) -> (text: String, isStopped: Bool) {
        var matcher = StopMatcher(stops)
        var text = ""
        for piece in pieces {
            let (more, isStopped) = matcher.append(piece)
            text += more
            if isStopped { return (text, true) }
        }
        return (text + matcher.finish(), false)
    }

    @Test func `text ends before a stop string, also one that comes in pieces`() {
        #expect(run(["END"], ["one E", "N", "D two"]) == ("one ", true))
        #expect(run([".", "!"], ["a", "b! c."]) == ("ab", true))
        #expect(run(["ab", "b"], ["xab"]) == ("x", true))
    }

    @Test func `what only began as a stop string is printed`() {
        #expect(run(["END"], ["one E", "N", "O"]) == ("one ENO", false))
        #expect(run(["aab"], ["aaa", "aa"]) == ("aaaaa", false))
        #expect(run([], ["a", "b"]) == ("ab", false))
        #expect(run(["é!"], ["caf", "é", "."]) == ("café.", false))
    }

    @Test func `what may become a stop string is held back`() {
        var matcher = StopMatcher(["\n\n"])
        #expect(matcher.append("line\n") == ("line", false))
        #expect(matcher.append("next") == ("\nnext", false))
    }
}
