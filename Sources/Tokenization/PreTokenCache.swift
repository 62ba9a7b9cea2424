/// The tokens of the pre-tokens met so far in one text.
///
/// English repeats its words: in a novel, nine pre-tokens of ten have come before. Keys are places in the
/// text itself, so nothing is copied.
struct PreTokenCache {
    private struct Entry {
        var hash: UInt64
        var textStart: Int
        var byteCount: Int
        var tokens: Range<Int>
    }

    private var entries: [Entry] = []
    private var slots: [Int32]
    private var tokens: [Int32] = []

    private static let emptySlot: Int32 = -1
    /// Longer pre-tokens seldom repeat, and hashing them costs.
    private static let longestByteCount = 64

    init() {
        slots = Array(repeating: Self.emptySlot, count: 256)
    }

    /// Appends the tokens of `bytes[range]` to `output`, from the cache or else from `merger`.
    mutating func appendTokens(
        of range: Range<Int>, in bytes: Span<UInt8>, merger: inout BytePairMerger,
        vocabulary: borrowing Vocabulary, table: borrowing MergeTable, to output: inout [Int32]
    ) {
        guard (2...Self.longestByteCount).contains(range.count) else {
            merger.appendTokens(of: range, in: bytes, vocabulary: vocabulary, table: table, to: &output)
            return
        }
        let hash = Self.hash(range, in: bytes)
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] != Self.emptySlot {
            let entry = entries[Int(slots[slot])]
            if entry.hash == hash, Self.areEqual(range, entry.textStart, entry.byteCount, in: bytes) {
                for index in entry.tokens { output.append(tokens[index]) }
                return
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        let start = output.count
        merger.appendTokens(of: range, in: bytes, vocabulary: vocabulary, table: table, to: &output)
        let firstToken = tokens.count
        for index in start..<output.count { tokens.append(output[index]) }
        slots[slot] = Int32(entries.count)
        entries.append(
            Entry(
                hash: hash, textStart: range.lowerBound, byteCount: range.count,
                tokens: firstToken..<tokens.count))
        if entries.count * 2 > slots.count { grow() }
    }

    private mutating func grow() {
        slots = Array(repeating: Self.emptySlot, count: slots.count * 2)
        for (index, entry) in entries.enumerated() {
            var slot = Int(truncatingIfNeeded: entry.hash) & (slots.count - 1)
            while slots[slot] != Self.emptySlot { slot = (slot + 1) & (slots.count - 1) }
            slots[slot] = Int32(index)
        }
    }

    /// FNV-1a, its high bits folded in: a table takes the low ones.
    @inline(__always)
    private static func hash(_ range: Range<Int>, in bytes: Span<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for index in range { hash = (hash ^ UInt64(bytes[index])) &* 0x100_0000_01B3 }
        return hash ^ (hash >> 32)
    }

    @inline(__always)
    private static func areEqual(
        _ range: Range<Int>, _ start: Int, _ byteCount: Int, in bytes: Span<UInt8>
    ) -> Bool {
        guard range.count == byteCount else { return false }
        for offset in 0..<byteCount where bytes[range.lowerBound + offset] != bytes[start + offset] {
            return false
        }
        return true
    }
}
