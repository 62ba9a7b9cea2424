/// Turns one pre-token into tokens: its bytes, merged by lowest rank, leftmost first, until none can be.
///
/// Holds the working arrays, so that a text's many pre-tokens allocate nothing each.
struct BytePairMerger {
    private var tokens: [Int32] = []
    private var merges: [MergeTable.Merge] = []
    private var longMerger = LongMerger()

    /// Above this, a heap beats the scan for the smallest rank.
    static let scanLimit = 48

    /// Appends the tokens of `bytes[range]` to `output`.
    mutating func appendTokens(
        of range: Range<Int>, in bytes: Span<UInt8>, vocabulary: borrowing Vocabulary,
        table: borrowing MergeTable, to output: inout [Int32]
    ) {
        if range.count == 1 {
            output.append(vocabulary.byteTokens[Int(bytes[range.lowerBound])])
            return
        }
        tokens.removeAll(keepingCapacity: true)
        for index in range { tokens.append(vocabulary.byteTokens[Int(bytes[index])]) }
        if tokens.count > Self.scanLimit {
            longMerger.merge(tokens, table: table, to: &output)
        } else {
            mergeByScanning(table: table)
            output.append(contentsOf: tokens)
        }
    }

    private mutating func mergeByScanning(table: borrowing MergeTable) {
        merges.removeAll(keepingCapacity: true)
        for index in 0..<tokens.count - 1 {
            merges.append(table.merge(left: tokens[index], right: tokens[index + 1]))
        }
        while !merges.isEmpty {
            var first = 0
            var best = merges[0]
            for index in 1..<merges.count where merges[index] < best {
                best = merges[index]
                first = index
            }
            if best == .none { return }
            tokens[first] = best.result
            tokens.remove(at: first + 1)
            merges.remove(at: first)
            if first > 0 { merges[first - 1] = table.merge(left: tokens[first - 1], right: best.result) }
            if first < merges.count {
                merges[first] = table.merge(left: best.result, right: tokens[first + 1])
            }
        }
    }
}
