/// What two neighbouring tokens become, and how early: a merge of rank 0 goes before one of rank 1.
///
/// Open addressing over two flat arrays: a look-up is a multiplication and, mostly, one cache line.
struct MergeTable: Sendable {
    /// A merge in one word, so that the smallest of several is the one to make first.
    struct Merge: Sendable, Comparable {
        var packed: UInt64

        static let none = Merge(packed: .max)

        init(packed: UInt64) {
            self.packed = packed
        }

        init(rank: Int, result: Int32) {
            packed = UInt64(UInt32(rank)) << 32 | UInt64(UInt32(bitPattern: result))
        }

        var rank: UInt32 { UInt32(truncatingIfNeeded: packed >> 32) }
        var result: Int32 { Int32(truncatingIfNeeded: packed) }

        @inline(__always)
        static func < (left: Merge, right: Merge) -> Bool { left.packed < right.packed }
    }

    private var keys: [UInt64]
    private var merges: [UInt64]
    private let mask: Int

    /// No pair of non-negative ids has this key.
    private static let emptyKey = UInt64.max

    /// An empty table with room for `capacity` pairs.
    init(capacity: Int) {
        var slotCount = 16
        // At most half full: probes stay short.
        while slotCount < capacity * 2 { slotCount *= 2 }
        keys = Array(repeating: Self.emptyKey, count: slotCount)
        merges = Array(repeating: Merge.none.packed, count: slotCount)
        mask = slotCount - 1
    }

    /// Adds a merge. A pair given twice keeps the later rank, as in Hugging Face's tokenizers.
    mutating func insert(_ merge: Merge, left: Int32, right: Int32) {
        let key = Self.key(left, right)
        var slot = Self.slot(of: key, mask)
        while keys[slot] != Self.emptyKey, keys[slot] != key { slot = (slot + 1) & mask }
        keys[slot] = key
        merges[slot] = merge.packed
    }

    @inline(__always)
    func merge(left: Int32, right: Int32) -> Merge {
        let key = Self.key(left, right)
        var slot = Self.slot(of: key, mask)
        while true {
            let candidate = keys[slot]
            if candidate == key { return Merge(packed: merges[slot]) }
            if candidate == Self.emptyKey { return .none }
            slot = (slot + 1) & mask
        }
    }

    @inline(__always)
    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    @inline(__always)
    private static func slot(of key: UInt64, _ mask: Int) -> Int {
        let product = key &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: (product ^ (product >> 32)) & UInt64(truncatingIfNeeded: mask))
    }
}
