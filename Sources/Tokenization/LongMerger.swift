/// Merges a long pre-token in O(n log n): a linked list of tokens, and a heap of the pairs that can merge.
///
/// A megabyte without a space is one pre-token, and scanning all of it for each merge would be quadratic.
struct LongMerger {
    private static let noNeighbour: Int32 = -1

    private var tokens: [Int32] = []
    private var next: [Int32] = []
    private var previous: [Int32] = []
    /// The merge of the token here with its right neighbour, by which stale heap entries are told.
    private var merges: [MergeTable.Merge] = []
    /// Rank in the high half, place in the low half; the smallest at the front.
    private var heap: [UInt64] = []

    /// Appends what `symbols` merge to.
    mutating func merge(_ symbols: [Int32], table: borrowing MergeTable, to output: inout [Int32]) {
        link(symbols, table: table)
        while let entry = popSmallest() {
            let place = Int(UInt32(truncatingIfNeeded: entry))
            let merge = merges[place]
            // Another merge took this token, or its right neighbour, since the entry was made.
            if merge == .none || merge.rank != UInt32(truncatingIfNeeded: entry >> 32) { continue }
            let absorbed = Int(next[place])
            tokens[place] = merge.result
            merges[absorbed] = .none
            next[place] = next[absorbed]
            if next[place] != Self.noNeighbour { previous[Int(next[place])] = Int32(place) }
            updateMerge(at: place, table: table)
            if previous[place] != Self.noNeighbour { updateMerge(at: Int(previous[place]), table: table) }
        }
        var place: Int32 = 0
        while place != Self.noNeighbour {
            output.append(tokens[Int(place)])
            place = next[Int(place)]
        }
    }

    private mutating func link(_ symbols: [Int32], table: borrowing MergeTable) {
        let count = symbols.count
        tokens = symbols
        next = (0..<count).map { $0 + 1 < count ? Int32($0 + 1) : Self.noNeighbour }
        previous = (0..<count).map { Int32($0) - 1 }
        merges = Array(repeating: .none, count: count)
        heap.removeAll(keepingCapacity: true)
        for place in 0..<count - 1 { updateMerge(at: place, table: table) }
    }

    private mutating func updateMerge(at place: Int, table: borrowing MergeTable) {
        guard next[place] != Self.noNeighbour else {
            merges[place] = .none
            return
        }
        let merge = table.merge(left: tokens[place], right: tokens[Int(next[place])])
        merges[place] = merge
        if merge != .none { push(UInt64(merge.rank) << 32 | UInt64(UInt32(place))) }
    }

    private mutating func push(_ entry: UInt64) {
        heap.append(entry)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            if heap[parent] <= entry { break }
            heap[child] = heap[parent]
            child = parent
        }
        heap[child] = entry
    }

    private mutating func popSmallest() -> UInt64? {
        guard let last = heap.popLast() else { return nil }
        guard let smallest = heap.first else { return last }
        var parent = 0
        while true {
            var child = 2 * parent + 1
            if child >= heap.count { break }
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            if last <= heap[child] { break }
            heap[parent] = heap[child]
            parent = child
        }
        heap[parent] = last
        return smallest
    }
}
