import Foundation
import OPTModel
import SystemPackage
import Testing
import Tokenization

@testable import Engine

/// Text from the model that comes with Tandem.
struct GenerationTests {
    private static let engine = Task { try await Engine.load(.folder(Fixtures.storybook)) }

    /// Everything that was generated for one prompt.
    private struct Completion: Equatable {
        var text = ""
        var tokens: [Int32] = []
        var finishReason: GenerationPiece.FinishReason?
    }

    private func collect(_ generation: Generation, count: Int = 1) async throws -> [Completion] {
        var completions = [Completion](repeating: Completion(), count: count)
        for try await piece in generation {
            #expect(completions[piece.sequence].finishReason == nil, "a piece came after the end")
            completions[piece.sequence].text += piece.text
            if let token = piece.token { completions[piece.sequence].tokens.append(token) }
            completions[piece.sequence].finishReason = piece.finishReason
        }
        return completions
    }

    private func options(_ count: Int, _ change: (inout GenerationOptions) -> Void = { _ in })
        -> GenerationOptions
    {
        var options = GenerationOptions()
        options.maximumTokens = count
        change(&options)
        return options
    }

    @Test func `the pieces make up the text of the tokens`() async throws {
        let engine = try await Self.engine.value
        let generation = try await engine.generate(["Once upon a time"], options: options(40))
        let completion = try await collect(generation)[0]
        #expect(completion.tokens.count == 40)
        #expect(completion.finishReason == .maximumTokens)
        #expect(completion.text == engine.tokenizer!.decode(completion.tokens))
        let report = try #require(generation.report)
        #expect(report.generatedTokenCounts == [40])
        #expect(report.stepSeconds.count == 39)
        #expect(report.promptTokenCounts == [engine.tokenizer!.encode("Once upon a time").count])
    }

    @Test func `a batch gives every prompt the text that it gets alone`() async throws {
        let engine = try await Self.engine.value
        let prompts = ["Once upon a time", "The", "“I do not think so,” said the old man, and he looked at"]
        let sampled = options(30) {
            $0.temperature = 0.8
            $0.topP = 0.9
            $0.seed = 3
        }
        let batch = try await collect(try await engine.generate(prompts, options: options(30)), count: 3)
        for (index, prompt) in prompts.enumerated() {
            #expect(
                try await collect(try await engine.generate([prompt], options: options(30)))[0]
                    == batch[index])
        }
        let first = try await collect(try await engine.generate(prompts, options: sampled), count: 3)
        let again = try await collect(try await engine.generate(prompts, options: sampled), count: 3)
        #expect(first == again, "the same seed gave other texts")
        let other = try await collect(
            try await engine.generate(
                prompts,
                options: options(30) {
                    $0.temperature = 0.8
                    $0.seed = 4
                }), count: 3)
        #expect(first != other)
    }

    @Test func `a session goes on where it stopped`() async throws {
        let engine = try await Self.engine.value
        let tokenizer = try #require(engine.tokenizer)
        let session = try await engine.makeSession(capacities: [100])
        let first = try await collect(try session.generate(["The king"], options: options(10)))[0]
        let second = try await collect(try session.generate([" and the queen"], options: options(10)))[0]
        let whole =
            tokenizer.encode("The king") + first.tokens
            + tokenizer.encode(" and the queen", addingBeginOfSequence: false)
        let alone = try await collect(try await engine.generate(tokens: [whole], options: options(10)))[0]
        #expect(second.tokens == alone.tokens)
    }

    @Test func `the repetition penalty remembers what the session said before`() async throws {
        let engine = try await Self.engine.value
        let strong = options(12) { $0.repetitionPenalty = 1e6 }
        let session = try await engine.makeSession(capacities: [100])
        let first = try await collect(try session.generate(["The king"], options: strong))[0].tokens
        let second = try await collect(try session.generate([" and"], options: strong))[0].tokens
        #expect(Set(first + second).count == 24, "a token came again")
    }

    @Test func `a long prompt in pieces gives the text of a short step`() async throws {
        let engine = try await Self.engine.value
        let prompt = (0..<700).map { Int32(4 + $0 * 7 % 4000) }
        let whole = try await collect(try await engine.generate(tokens: [prompt], options: options(5)))[0]
        let session = try await engine.makeSession(capacities: [710])
        var pieces: [Int32] = []
        for start in stride(from: 0, to: 700, by: 20) {
            let piece = Array(prompt[start..<start + 20])
            // What the last piece generated is not kept.
            try await engine.leader.perform {
                session.state.truncate(0, to: start)
                session.progress.pendingTokens[0] = nil
            }
            pieces = try await collect(
                try session.generate(tokens: [piece], options: options(start + 20 < 700 ? 1 : 5)))[0].tokens
        }
        #expect(pieces == whole.tokens)
    }

    @Test func `a stop string ends the text before it`() async throws {
        let engine = try await Self.engine.value
        let free = try await collect(try await engine.generate(["Once upon a time"], options: options(60)))[0]
        let words = free.text.split(separator: " ")
        let stop = String(words[5])
        let stopped = try await collect(
            try await engine.generate(["Once upon a time"], options: options(60) { $0.stopStrings = [stop] }))[
                0]
        #expect(stopped.finishReason == .stopString)
        #expect(stopped.text == String(free.text[..<free.text.range(of: stop)!.lowerBound]))
    }

    @Test func `cancelling ends every text with a reason and a report`() async throws {
        let engine = try await Self.engine.value
        // Where other tests have all processors, everything may be generated before the first piece is seen here: again then.
        for attempt in 1...8 {
            let generation = try await engine.generate(["Once", "Twice"], options: options(1500))
            var reasons: [GenerationPiece.FinishReason?] = [nil, nil]
            var count = 0
            for try await piece in generation {
                count += 1
                if count == 10 { generation.cancel() }
                reasons[piece.sequence] = piece.finishReason
            }
            let report = try #require(generation.report)
            if report.generatedTokenCount == 3000 && attempt < 8 { continue }
            #expect(reasons == [.cancelled, .cancelled])
            #expect(report.generatedTokenCount < 3000)
            return
        }
    }

    @Test func `log-probabilities name the chosen token, which greedy takes from the top`() async throws {
        let engine = try await Self.engine.value
        let generation = try await engine.generate(
            ["The"], options: options(5) { $0.topLogProbabilities = 3 })
        for try await piece in generation {
            let logProbabilities = try #require(piece.logProbabilities)
            #expect(logProbabilities.likeliest.count == 3)
            #expect(logProbabilities.chosen == logProbabilities.likeliest[0])
            #expect(logProbabilities.chosen.token == piece.token)
            #expect(logProbabilities.chosen.logProbability < 0)
        }
    }

    @Test func `prompts that cannot be continued are refused with numbers and a way out`() async throws {
        let engine = try await Self.engine.value
        func message(_ body: () async throws -> Void) async -> String {
            do {
                try await body()
                return "no error"
            } catch {
                return "\(error)"
            }
        }
        let long = [Int32](repeating: 5, count: 2040)
        var text = await message { _ = try await engine.generate(tokens: [long], options: options(32)) }
        #expect(text.contains("2040 tokens") && text.contains("2072") && text.contains("at most 8"))
        text = await message { _ = try await engine.generate(tokens: [long + long], options: options(32)) }
        #expect(text.contains("4080 tokens") && text.contains("2048 positions") && text.contains("2016"))
        text = await message { _ = try await engine.generate(["a", ""], options: options(3)) }
        #expect(text.contains("prompt 2 of 2 is empty"))
        text = await message { _ = try await engine.generate(tokens: [[5, 9999]], options: options(3)) }
        #expect(text.contains("9999"))
        text = await message { _ = try await engine.generate(["a"], options: options(0)) }
        #expect(text.contains("0 tokens"))
        text = await message { _ = try await engine.generate(["a"], options: options(3) { $0.topP = 0 }) }
        #expect(text.contains("top-p"))
        text = await message {
            _ = try await engine.makeSession(capacities: Array(repeating: 2048, count: 1_000_000))
        }
        #expect(text.contains("GiB are free") && text.contains("use a batch of at most"))
    }

    @Test func `a model that is not there is an error that says where it was sought`() {
        #expect {
            _ = try ModelReference(model: "facebook/opt-999b", downloadFolders: ["/nowhere"])
        } throws: {
            "\($0)".contains("facebook/opt-999b") && "\($0)".contains("/nowhere")
                && "\($0)".contains("_DUMMY_")
        }
    }

    @Test func `random weights give the same tokens again, and none of a text`() async throws {
        let configuration = try #require(OPTConfiguration(publishedModel: "facebook/opt-125m"))
        var small = configuration
        small.layerCount = 2
        small.vocabularySize = 1000
        var tokens: [[Int32]] = []
        for _ in 0..<2 {
            let engine = try await Engine.load(.random(small))
            tokens.append(
                try await collect(try await engine.generate(tokens: [[2, 7, 9]], options: options(8)))[0]
                    .tokens)
            await #expect(throws: EngineError.self) { _ = try await engine.generate(["text"]) }
        }
        #expect(tokens[0] == tokens[1])
        #expect(Set(tokens[0]).count > 1)
    }
}
