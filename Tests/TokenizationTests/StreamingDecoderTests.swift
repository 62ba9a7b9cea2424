import Testing

@testable import Tokenization

@Suite struct `Streaming decoder` {
    @Test func `a character split over tokens is printed whole`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        var decoder = tokenizer.makeStreamingDecoder()
        // One token a byte.
        let pieces = Array("é🦊!".utf8).map { decoder.append(tokenizer.vocabulary.byteTokens[Int($0)]) }
        #expect(pieces == ["", "é", "", "", "", "🦊", "!"])
        #expect(decoder.finish() == "")
    }

    @Test func `an invalid byte is printed as soon as it is known to be invalid`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        var decoder = tokenizer.makeStreamingDecoder()
        let bytes: [UInt8] = [0xE6, 0x97, 0x61, 0xFF, 0x80, 0xED, 0xA0, 0xF0, 0x9F]
        let pieces = bytes.map { decoder.append(tokenizer.vocabulary.byteTokens[Int($0)]) }
        #expect(
            pieces == ["", "", "\u{FFFD}a", "\u{FFFD}", "\u{FFFD}", "", "\u{FFFD}\u{FFFD}", "", ""])
        #expect(decoder.finish() == "\u{FFFD}")
        #expect(decoder.finish() == "")
    }

    @Test func `special tokens are left out unless told`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        var decoder = tokenizer.makeStreamingDecoder()
        #expect(decoder.append(2) == "")
        var literalDecoder = tokenizer.makeStreamingDecoder(skippingSpecialTokens: false)
        #expect(literalDecoder.append(2) == "</s>")
    }

    @Test func `the pieces joined are the whole decoding`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        var generator = SeededGenerator(state: 3)
        for _ in 0..<300 {
            // The lead and continuation bytes are likelier here than in text.
            let bytes = (0..<40).map { _ in
                [0x41, 0x80, 0x8F, 0x90, 0xA0, 0xBF, 0xC3, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xFF, 0x20]
                    .randomElement(using: &generator) ?? 0
            }
            let ids = bytes.map { tokenizer.vocabulary.byteTokens[$0] }
            var decoder = tokenizer.makeStreamingDecoder()
            var text = ""
            for id in ids { text += decoder.append(id) }
            text += decoder.finish()
            #expect(Array(text.utf8) == Array(tokenizer.decode(ids).utf8))
        }
    }
}
