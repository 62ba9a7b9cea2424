import Foundation
import OPTModel
import Placement
import Synchronization
import SystemPackage
import TensorCore
import Testing

@testable import Engine

/// The choice of a form with the model that comes with Tandem, and what is remembered of it.
struct CompressionSearchTests {
    /// A file in a folder of its own, which is not there yet.
    private final class LossesFile {
        let folder = FileManager.default.temporaryDirectory.appending(
            path: "tandem-test-\(UUID().uuidString)")
        var path: FilePath { FilePath(folder.path).appending("cache/compression-losses.json") }

        deinit { try? FileManager.default.removeItem(at: folder) }
    }

    private final class Notices: Sendable {
        private let sentences = Mutex<[String]>([])
        func add(_ sentence: String) { sentences.withLock { $0.append(sentence) } }
        /// Those since this was asked for last.
        func take() -> [String] {
            sentences.withLock { sentences in
                defer { sentences = [] }
                return sentences
            }
        }
    }

    private static let storybook = ModelReference.folder(Fixtures.storybook)
    private static func heldOut() throws -> String {
        try String(contentsOfFile: Fixtures.storybook.appending("held-out.txt").string, encoding: .utf8)
    }

    private var options: Engine.Options {
        var options = Engine.Options()
        options.computesOn = .cpu
        options.threadCount = 2
        return options
    }

    private func form(_ weights: Int, _ cache: Int = 16) -> CompressionForm {
        CompressionForm(Quantization(bits: weights), compressesCache: cache == 4)
    }

    /// Milliseconds that make weights worth more than the cache.
    private func seconds(_ configuration: OPTConfiguration) -> Double {
        let form = configuration.compressionForm
        return Double(form.weightBits) * 1e-3 + Double(form.cacheBits) * 1e-4
    }

    @Test func `the fastest form within the bound is found with the model itself, and remembered`()
        async throws
    {
        let (file, notices) = (LossesFile(), Notices())
        func choose(_ percent: Double, text: String?) async throws -> CompressionChoice {
            var automatic = AutomaticCompression()
            automatic.maximumLoss = percent / 100
            automatic.text = text
            automatic.lossesFile = file.path
            return try await CompressionSearch(Self.storybook, automatic, options: options).run(
                notice: notices.add, stepSeconds: seconds)
        }
        let text = try Self.heldOut()
        // As tandem perplexity measures on all of the text: 3.1, 2.4, 0.6 and 0.0 %.
        let loose = try await choose(5, text: text)
        #expect(loose.chosen == form(4, 4))
        #expect(loose.candidates.count { $0.loss != nil } == 2)
        let loss = try #require(loose.candidates[0].loss)
        #expect((0.02...0.05).contains(loss.value))
        #expect((0.001...0.01).contains(try #require(loss.standardError)))
        #expect(notices.take().count { $0.contains("measuring the perplexity of storybook") } == 2)

        let tight = try await choose(0.2, text: text)
        #expect(tight.chosen == form(8))
        #expect(tight.candidates.prefix(3).map(\.form) == [form(4, 4), form(4), form(8, 4)])
        #expect(tight.candidates[0].loss == loss)
        // fp16 and the first form were known.
        #expect(notices.take().count { $0.contains("measuring") } == 3)

        // Nothing is measured where all is known, with the text or without it.
        for known in [text, nil] {
            let again = try await choose(0.2, text: known)
            #expect(again == tight)
            #expect(try await choose(1, text: known).chosen == form(8, 4))
            #expect(notices.take() == [])
        }
        // fp16 has no room, and what has loses too much.
        var automatic = AutomaticCompression()
        automatic.lossesFile = file.path
        await #expect {
            _ = try await CompressionSearch(Self.storybook, automatic, options: options).run {
                if $0.compressionForm != form(4, 4) {
                    throw EngineError(.outOfMemory, "no room; nor elsewhere", advice: "take less")
                }
                return 1
            }
        } throws: {
            let lines = "\($0)".split(separator: "\n")
            return lines.count == 7 && lines[0].contains("1 % more perplexity than in fp16; allow more with")
                && lines[1].hasSuffix(": too much")
                && lines.suffix(5).allSatisfy { $0.hasSuffix("not possible: no room; nor elsewhere") }
        }
        // Another text is another measurement.
        _ = try await choose(5, text: String(text.dropFirst(text.count / 2)))
        #expect(notices.take().count == 2)
        await #expect {
            _ = try await choose(0.001, text: nil)
        } throws: {
            "\($0)".contains("weights in 4 bits was not measured before")
        }
    }

    @Test func `forms that the model cannot be kept in are dropped`() async throws {
        var automatic = AutomaticCompression()
        automatic.lossesFile = LossesFile().path
        // Heads of 12 and a feed-forward size that is no multiple of 64.
        let odd = ModelReference.folder(Fixtures.golden("odd/safetensors"))
        let choice = try await CompressionSearch(odd, automatic, options: options).run(stepSeconds: seconds)
        #expect(choice.chosen == .fp16)
        #expect(choice.candidates.count { $0.stepSeconds == nil } == 5)
        let lines = choice.reportLines.filter { $0.contains("not possible: ") }
        #expect(lines.count == 5 && lines.allSatisfy { $0.contains("multiple of") && !$0.contains("leave") })

        // What the lane refuses is not measured either.
        let refused = try await CompressionSearch(Self.storybook, automatic, options: options).run {
            if $0.compressionForm != .fp16 {
                throw PlacementError(.outOfMemory, "not with this lane", advice: "take another")
            }
            return 1
        }
        #expect(refused.chosen == .fp16)
        #expect(refused.reportLines.count { $0.hasSuffix("not possible: not with this lane") } == 5)
        await #expect {
            _ = try await CompressionSearch(Self.storybook, automatic, options: options).run { _ in
                throw EngineError(.outOfMemory, "there is none", advice: "take less")
            }
        } throws: {
            "\($0)" == "there is none; take less"
        }
    }

    @Test(
        arguments: [
            CancellationError(), EngineError(.machineNotMeasured, "no room to measure"),
            EngineError(.noGPU, "gone"), ModelError(.gpu, "a fault"), ModelError(.cancelled, "by Ctrl-C"),
            PlacementError(.invalidPercent, "over 100"),
        ] as [any Error])
    func `what says nothing of a form ends the search at once`(error: any Error) async throws {
        var automatic = AutomaticCompression()
        automatic.lossesFile = LossesFile().path
        let search = try CompressionSearch(Self.storybook, automatic, options: options)
        let count = Mutex(0)
        await #expect {
            _ = try await search.run { _ in
                // The first form is possible; without this error one would be chosen.
                let isFirst = count.withLock { count in
                    count += 1
                    return count == 1
                }
                if isFirst { return 1 }
                throw error
            }
        } throws: {
            type(of: $0) == type(of: error) && "\($0)" == "\(error)"
        }
        #expect(count.withLock(\.self) == 2)
    }

    @Test func `what cannot be measured is refused with what to do`() async throws {
        var automatic = AutomaticCompression()
        automatic.lossesFile = LossesFile().path
        #expect {
            _ = try CompressionSearch(
                .random(try #require(OPTConfiguration(publishedModel: "opt-125m"))), automatic,
                options: options)
        } throws: {
            "\($0)".contains("random weights predict nothing; choose with --compress-weight")
        }
        for (text, sentence) in [(nil, "--perplexity-text"), ("Once upon a time", "give one of 512 or more")]
        {
            automatic.text = text
            await #expect {
                _ = try await CompressionSearch(Self.storybook, automatic, options: options).run(
                    stepSeconds: seconds)
            } throws: {
                "\($0)".contains(sentence)
            }
        }
    }

    // MARK: What is remembered

    private func measured(_ model: String, _ text: String, loss: Double) -> MeasuredLosses {
        var measured = MeasuredLosses(model: model, text: text)
        measured.reference = [3.25, 4.5]
        measured.losses = [.init(form: form(4), loss: PerplexityLoss(loss, standardError: 0.5))]
        return measured
    }

    @Test func `losses are remembered by model and text, the last text for none`() throws {
        let file = LossesFile()
        #expect(MeasuredLosses.remembered(in: file.path, model: "a", text: nil) == nil)
        for (model, text, loss) in [("a", "x", 0.1), ("a", "y", 0.2), ("b", "x", 0.3), ("a", "x", 0.4)] {
            try measured(model, text, loss: loss).remember(in: file.path)
        }
        for (model, text, loss) in [("a", "x", 0.4), ("a", "y", 0.2), ("b", "x", 0.3), ("a", nil, 0.4)] {
            let found = MeasuredLosses.remembered(in: file.path, model: model, text: text)
            #expect(found == measured(model, text ?? "x", loss: loss))
        }
        #expect(MeasuredLosses.remembered(in: file.path, model: "b", text: "y") == nil)
        let whole = try String(contentsOfFile: file.path.string, encoding: .utf8)
        for text in [
            "", String(whole.prefix(whole.count / 2)),
            whole.replacing("\"version\":1", with: "\"version\":0"),
            whole.replacing("\"value\":0.3", with: "\"value\":-3"),
        ] {
            #expect(text != whole)
            try text.write(toFile: file.path.string, atomically: true, encoding: .utf8)
            #expect(MeasuredLosses.remembered(in: file.path, model: "b", text: "x") == nil)
        }
    }

    @Test func `of what was measured the newest is kept`() throws {
        let (file, most) = (LossesFile(), MeasuredLosses.mostRemembered)
        func isKnown(_ model: Int) -> Bool {
            MeasuredLosses.remembered(in: file.path, model: "\(model)", text: nil) != nil
        }
        for model in 0..<most { try measured("\(model)", "x", loss: 0.1).remember(in: file.path) }
        // What is measured again is new, too.
        try measured("0", "x", loss: 0.2).remember(in: file.path)
        #expect((0..<most).allSatisfy(isKnown))
        for model in [most, most + 1] { try measured("\(model)", "x", loss: 0.1).remember(in: file.path) }
        #expect((0..<most + 2).filter { !isKnown($0) } == [1, 2])
    }

    @Test func `a model whose weights change is another one`() throws {
        let file = LossesFile()
        let folder = FilePath(file.folder.path)
        try FileManager.default.copyItem(atPath: Fixtures.storybook.string, toPath: folder.string)
        let model = ModelReference.folder(folder)
        let digest = try model.contentDigest
        #expect(try model.contentDigest == digest)
        let weights = folder.appending("model.safetensors").string
        try FileManager.default.setAttributes(
            [.modificationDate: Date(timeIntervalSince1970: 1e9)], ofItemAtPath: weights)
        #expect(try model.contentDigest != digest)
        // FNV-1a of nothing and of "a", as published.
        #expect(ContentDigest("").description == "cbf29ce484222325")
        #expect(ContentDigest("a").description == "af63dc4c8601ec8c")
    }
}
