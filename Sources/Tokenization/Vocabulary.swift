/// The bytes that each id stands for, and the ids of the 256 single bytes.
struct Vocabulary: Sendable {
    /// The id of each byte's own token.
    let byteTokens: [Int32]
    private var bytes: [UInt8]
    /// Where each id's bytes start; one more entry at the end.
    private var offsets: [Int]
    private var specialTokens: Set<Int32>

    /// `bytesOfTokens[id]` is empty where no token has that id.
    init(bytesOfTokens: [[UInt8]], byteTokens: [Int32], specialTokens: Set<Int32>) {
        precondition(byteTokens.count == 256, "a token for each of the 256 bytes, not \(byteTokens.count)")
        self.byteTokens = byteTokens
        self.specialTokens = specialTokens
        bytes = []
        offsets = [0]
        offsets.reserveCapacity(bytesOfTokens.count + 1)
        for token in bytesOfTokens {
            bytes.append(contentsOf: token)
            offsets.append(bytes.count)
        }
    }

    /// The highest id and one.
    var count: Int { offsets.count - 1 }

    func isSpecial(_ token: Int32) -> Bool { specialTokens.contains(token) }

    /// The token's bytes; empty where no token has the id.
    func bytes(of token: Int32) -> ArraySlice<UInt8> {
        guard token >= 0, Int(token) < count else { return [] }
        return bytes[offsets[Int(token)]..<offsets[Int(token) + 1]]
    }
}
