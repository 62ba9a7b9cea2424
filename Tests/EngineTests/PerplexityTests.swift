import Foundation
import OPTModel
import SystemPackage
import Testing

@testable import Engine

/// Texts that are scored by windows, against a plain computation that runs one token at a time.
struct PerplexityTests {
    private static let names = ["pre-norm/safetensors", "post-norm/safetensors", "odd/safetensors"]

    private func engine(_ name: String, threads: Int = 2) async throws -> Engine {
        var options = Engine.Options()
        options.computesOn = .cpu
        options.threadCount = threads
        return try await Engine.load(.folder(Fixtures.golden(name)), options: options)
    }

    /// Tokens that any vocabulary of the golden models has.
    private func tokens(_ count: Int) -> [Int32] {
        (0..<count).map { (index: Int) -> Int32 in Int32(4 + index * (7 * index + 3) % 200) }
    }

    private func windows(_ count: Int, _ length: Int?, _ stride: Int?) throws -> SlidingWindows {
        try SlidingWindows(tokenCount: count, length: length, stride: stride, maximumPositions: 136)
    }

    /// −log p of every scored token and the logits that say so, with nothing shared between two of them.
    private func plainly(_ engine: Engine, _ tokens: [Int32], _ windows: SlidingWindows) async throws
        -> [(token: Int32, logits: [Float])]
    {
        try await engine.leader.perform {
            var rows: [(Int32, [Float])] = []
            for index in 0..<windows.count {
                let window = windows[index]
                let state = try engine.decoder.makeState(capacities: [window.tokens.count])
                let inputs = [2] + tokens[window.tokens].dropLast()
                for (input, target) in zip(inputs, window.tokens) {
                    try engine.decoder.append([input], logitsCount: 1, to: 0, state: state) {
                        if window.scored.contains(target) { rows.append((tokens[target], Array($0))) }
                    }
                }
            }
            return rows
        }
    }

    private func logProbabilities(_ logits: [Float]) -> [Double] {
        let maximum = Double(logits.max()!)
        let sum = logits.reduce(0.0) { $0 + exp(Double($1) - maximum) }
        return logits.map { Double($0) - maximum - log(sum) }
    }

    // MARK: Windows

    @Test func `windows score every token once, with what came before it as context`() throws {
        for count in [2, 3, 7, 16, 23] {
            for length in [2, 3, 5, 8, 14] {
                for stride in 1...length {
                    let windows = try windows(count, length, stride)
                    var scored: [Int] = []
                    for index in 0..<windows.count {
                        let window = windows[index]
                        #expect(
                            window.tokens.count <= length
                                && window.tokens.upperBound == window.scored.upperBound)
                        #expect(!window.scored.isEmpty)
                        // All but the first give each token at least what windows share.
                        if index > 0 {
                            #expect(
                                window.scored.lowerBound - window.tokens.lowerBound == windows.length
                                    - windows.stride)
                        }
                        #expect(windows.count(scoring: window.scored.upperBound) == index + 1)
                        scored += window.scored
                        for rowCount in [1, 3, 100] {
                            let passes = windows.passes(of: window, rowCount: rowCount)
                            #expect(passes.flatMap(\.scored) == Array(window.scored))
                            #expect(passes.flatMap(\.predicted) == Array(window.tokens))
                            #expect(passes.map(\.beginsWindow) == passes.indices.map { $0 == 0 })
                            #expect(passes.allSatisfy { $0.scored.count <= rowCount })
                        }
                    }
                    #expect(scored == Array(0..<count), "\(windows)")
                }
            }
        }
    }

    @Test func `a window is as long as the model or the text, and half of it new`() throws {
        let long = try windows(1000, nil, nil)
        #expect(long.length == 136 && long.stride == 68)
        let short = try windows(9, nil, nil)
        #expect(short.length == 9 && short.stride == 4 && short.count == 1)
        #expect(try windows(9, 100, 60).stride == 9)
    }

    @Test(
        arguments: [
            (100, 1, nil, "window of 1"), (100, 137, nil, "136 positions"), (100, 10, 0, "stride of 0"),
            (100, 10, 11, "give 1 to 10"), (100, nil, 137, "give 1 to 136"), (1, nil, nil, "1 token;"),
            (0, nil, nil, "0 tokens"),
        ] as [(Int, Int?, Int?, String)])
    func `windows that cannot be are refused`(count: Int, length: Int?, stride: Int?, sentence: String) {
        #expect {
            _ = try windows(count, length, stride)
        } throws: {
            "\($0)".contains(sentence)
        }
    }

    // MARK: Engines

    @Test(
        arguments: names,
        [(nil, nil), (2, 1), (2, 2), (7, 3), (40, 40), (100, 1), (136, 50)] as [(Int?, Int?)])
    func `perplexity is that of scoring one token at a time`(
        name: String, shape: (length: Int?, stride: Int?)
    )
        async throws
    {
        let engine = try await engine(name)
        let tokens = tokens(shape.stride == 1 ? 103 : 301)
        let windows = try windows(tokens.count, shape.length, shape.stride)
        let perplexity = try await engine.perplexity(of: tokens, in: windows)
        let values = try await plainly(engine, tokens, windows).map {
            -logProbabilities($0.logits)[Int($0.token)]
        }
        #expect(perplexity.tokenCount == tokens.count && values.count == tokens.count)
        let mean = values.reduce(0, +) / Double(values.count)
        #expect(abs(perplexity.value / exp(mean) - 1) < 1e-3)
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count - 1)
        let standardError = exp(mean) * (variance / Double(values.count)).squareRoot()
        #expect(abs(try #require(perplexity.standardError) / standardError - 1) < 1e-3)
    }

    @Test func `more threads, and fewer rows at a time, give the same value`() async throws {
        let tokens = tokens(136)
        let windows = try windows(tokens.count, 136, 136)
        let one = try await engine(Self.names[0], threads: 1).perplexity(of: tokens, in: windows)
        let engine = try await engine(Self.names[0], threads: 3)
        let three = try await engine.perplexity(of: tokens, in: windows)
        #expect(abs(one.value / three.value - 1) < 1e-4)
        let scorer = try await engine.makeScorer(windowLength: 136)
        var inParts = Perplexity()
        for pass in windows.passes(of: windows[0], rowCount: 5) {
            inParts = try await scorer.run(pass, of: tokens, into: inParts) { $0.add($1, token: $2) }
        }
        #expect(inParts.tokenCount == 136 && abs(inParts.value / three.value - 1) < 1e-4)
    }

    @Test func `a task that is cancelled scores no more`() async throws {
        let engine = try await engine(Self.names[0])
        let (tokens, windows) = (tokens(136), try windows(136, 20, 10))
        let task = Task {
            try await engine.perplexity(of: tokens, in: windows) { _ in withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        #expect(try await task.value.tokenCount == 20)
        #expect(Perplexity().value.isNaN && Perplexity().standardError == nil)
    }

    @Test func `a token that the model has not is refused`() async throws {
        let engine = try await engine(Self.names[0])
        await #expect(throws: EngineError.self) {
            _ = try await engine.perplexity(of: [5, 251], in: try windows(2, nil, nil))
        }
    }

    @Test func `held-out text is as likely as the training script found it`() async throws {
        let engine = try await Engine.load(.folder(Fixtures.storybook))
        let url = URL(filePath: Fixtures.storybook.appending("held-out.txt").string)
        let tokens = try engine.tokens(of: try String(contentsOf: url, encoding: .utf8))
        let windows = try SlidingWindows(
            tokenCount: tokens.count, length: 512, stride: 512, maximumPositions: 2048)
        let perplexity = try await engine.perplexity(of: tokens, in: windows)
        // The model card has 44.1 for six chapters, of which these three are somewhat harder.
        #expect((44...46).contains(perplexity.value), "\(perplexity.value)")
        #expect((1...2).contains(try #require(perplexity.standardError)))
    }

    // MARK: Comparisons

    @Test func `divergence and agreement are those of the distributions`() throws {
        var comparison = PerplexityComparison()
        // Logits of (½, ¼, ¼) and (⅛, ⅛, ¾), each moved by some number.
        let p = [0.5, 0.25, 0.25].map { Float(log($0) + 30) }
        let q = [0.125, 0.125, 0.75].map { Float(log($0) - 7) }
        comparison.add(reference: p.span, measured: q.span, token: 2)
        let expected = 0.5 * log(4) + 0.25 * log(2) + 0.25 * log(1.0 / 3)
        #expect(abs(comparison.divergence.mean - expected) < 1e-5)
        #expect(comparison.agreement == 0)
        #expect(comparison.divergence.standardError == nil)
        #expect(abs(comparison.reference.value - 4) < 1e-4 && abs(comparison.measured.value - 4.0 / 3) < 1e-4)
        comparison.add(reference: p.span, measured: p.span, token: 0)
        #expect(abs(comparison.divergence.mean - expected / 2) < 1e-5)
        // Two values x and 0: their standard deviation is x / √2.
        #expect(abs(try #require(comparison.divergence.standardError) - expected / 2) < 1e-5)
        #expect(comparison.agreement == 0.5 && comparison.positionCount == 2)
        // Of the tokens that came the likelihood rose from ¼ to ¾, then stayed at ½.
        let loss = comparison.perplexityLoss
        #expect(abs(loss.value - (exp(log(1.0 / 3) / 2) - 1)) < 1e-5)
        #expect(abs(try #require(loss.standardError) - (1 + loss.value) * log(3) / 2) < 1e-5)
        // What the reference holds for impossible costs nothing.
        var certain = PerplexityComparison()
        certain.add(
            reference: [0, -.infinity].span, measured: [Float(log(0.5)), Float(log(0.5))].span, token: 0)
        #expect(abs(certain.divergence.mean - log(2)) < 1e-6)
    }

    @Test func `an engine does not differ from itself`() async throws {
        let engine = try await engine(Self.names[0])
        let tokens = tokens(150)
        let comparison = try await engine.compare(
            with: engine, on: tokens, in: try windows(150, 40, 20))
        #expect(comparison.positionCount == 150 && comparison.agreement == 1)
        // The threads' shares move, and sums with them.
        #expect(comparison.divergence.mean < 1e-6)
    }

    @Test func `two engines are compared as their logits are`() async throws {
        let (reference, measured) = (try await engine(Self.names[0]), try await engine(Self.names[1]))
        let tokens = tokens(150)
        let windows = try windows(150, 60, 30)
        let comparison = try await measured.compare(with: reference, on: tokens, in: windows)
        let p = try await plainly(reference, tokens, windows).map { logProbabilities($0.logits) }
        let q = try await plainly(measured, tokens, windows).map { logProbabilities($0.logits) }
        let divergences = zip(p, q).map { zip($0, $1).reduce(0.0) { $0 + exp($1.0) * ($1.0 - $1.1) } }
        let mean = divergences.reduce(0, +) / 150
        #expect(mean > 0.1 && abs(comparison.divergence.mean / mean - 1) < 1e-2)
        let same = zip(p, q).count { $0.firstIndex(of: $0.max()!) == $1.firstIndex(of: $1.max()!) }
        #expect(abs(comparison.agreementCount - same) <= 1)
        let alone = try await measured.perplexity(of: tokens, in: windows)
        #expect(abs(comparison.measured.value / alone.value - 1) < 1e-4)
        let other = try await reference.perplexity(of: tokens, in: windows)
        #expect(abs(comparison.reference.value / other.value - 1) < 1e-4)
        #expect(abs(comparison.perplexityLoss.value - (alone.value / other.value - 1)) < 1e-3)
    }

    @Test func `models of different vocabularies are not compared`() async throws {
        let (one, other) = (try await engine(Self.names[0]), try await engine(Self.names[2]))
        await #expect {
            _ = try await one.compare(with: other, on: tokens(9), in: try windows(9, nil, nil))
        } throws: {
            "\($0)".contains("one vocabulary")
        }
    }

    @Test func `a mean and its standard error are those of the formulas`() throws {
        let values = (0..<97).map { 1e6 + Double($0 * $0 % 13) }
        var estimate = MeanEstimate()
        for value in values { estimate.add(value) }
        let mean = values.reduce(0, +) / 97
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 96
        #expect(abs(estimate.mean - mean) < 1e-6)
        #expect(abs(try #require(estimate.standardError) - (variance / 97).squareRoot()) < 1e-6)
    }
}
