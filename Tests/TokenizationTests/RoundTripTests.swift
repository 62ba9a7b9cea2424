import Testing

@testable import Tokenization

@Suite struct `Round trips` {
    @Test(arguments: ["vocabulary-files", "prefix-space", "galactica"])
    func `any bytes come back from their ids`(_ name: String) throws {
        let tokenizer = try Fixtures.tokenizer(name)
        var generator = SeededGenerator(state: 1)
        func expectRoundTrip(_ bytes: [UInt8]) {
            let ids = tokenizer.encode(bytes: bytes)
            #expect(ids.flatMap(tokenizer.bytes(of:)) == bytes)
        }
        expectRoundTrip([])
        expectRoundTrip(Array(0...255))
        for byte in UInt8.min...UInt8.max { expectRoundTrip([byte]) }
        for text in try Fixtures.golden().texts { expectRoundTrip(Array(text.utf8)) }
        // Valid characters, their pieces and plain bytes, so that sequences break off in every way.
        let fragments = ["é", "日", "👩", "</s>", "[START_REF] ", " ", "'ll", "ab", "1"].map { Array($0.utf8) }
        for _ in 0..<300 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 0...40, using: &generator) {
                if Bool.random(using: &generator) {
                    bytes.append(UInt8.random(in: 0...255, using: &generator))
                } else if let fragment = fragments.randomElement(using: &generator) {
                    bytes += fragment.prefix(Int.random(in: 1...fragment.count, using: &generator))
                }
            }
            expectRoundTrip(bytes)
        }
    }

    @Test func `valid text has the same ids as bytes`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        for text in try Fixtures.golden().texts {
            #expect(
                tokenizer.encode(bytes: Array(text.utf8))
                    == tokenizer.encode(text, addingBeginOfSequence: false))
        }
    }

    @Test func `text decodes to itself`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        for text in try Fixtures.golden().texts {
            let ids = tokenizer.encode(text, addingBeginOfSequence: false)
            #expect(Array(tokenizer.decode(ids, skippingSpecialTokens: false).utf8) == Array(text.utf8))
        }
    }

    @Test func `invalid bytes decode to the replacement character`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        #expect(tokenizer.decode(tokenizer.encode(bytes: [0x61, 0xFF, 0x62])) == "a\u{FFFD}b")
        #expect(tokenizer.decode(tokenizer.encode(bytes: [0xE6, 0x97])) == "\u{FFFD}")
    }

    @Test(.timeLimit(.minutes(1)))
    func `a long text without spaces is merged in good time`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        let text = String(repeating: "a", count: 200_000)
        let ids = tokenizer.encode(text, addingBeginOfSequence: false)
        #expect(ids.count < text.utf8.count)
        #expect(tokenizer.decode(ids) == text)
    }

    @Test func `the heap merges as the scan does`() throws {
        let tokenizer = try Fixtures.tokenizer("vocabulary-files")
        var generator = SeededGenerator(state: 2)
        let letters = Array("aaaeehhinrst".utf8)
        var scanning = BytePairMerger()
        var longMerger = LongMerger()
        for _ in 0..<200 {
            let count = Int.random(in: 2...BytePairMerger.scanLimit, using: &generator)
            let bytes = (0..<count).map { _ in letters.randomElement(using: &generator) ?? 0 }
            var scanned: [Int32] = []
            scanning.appendTokens(
                of: 0..<count, in: bytes.span, vocabulary: tokenizer.vocabulary, table: tokenizer.mergeTable,
                to: &scanned)
            var heaped: [Int32] = []
            let symbols = bytes.map { tokenizer.vocabulary.byteTokens[Int($0)] }
            longMerger.merge(symbols, table: tokenizer.mergeTable, to: &heaped)
            #expect(heaped == scanned)
        }
    }
}
