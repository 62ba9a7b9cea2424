/// The search for the best split.
///
/// Latency is nearly flat along splits that give the CPU equally many bytes, and has a bend across them, where CPU and
/// PCIe are done at the same time. So how many bytes is looked for first, for each choice of what kinds they come from;
/// then units are moved between the lanes and exchanged between kinds.
extension PlacementPlanner {
    /// The best choice found; nil where none has room.
    func search(_ fill: MemoryFill) -> Choice? {
        var best: Choice?
        for slotCount in slotCounts {
            for order in ComputationSplit.FillOrder.allCases {
                var all = ComputationSplit.everything(shape, slotCount: slotCount)
                all.order = order
                if let found = search(from: all, fill), found.seconds < best?.seconds ?? .infinity {
                    best = found
                }
            }
        }
        return best
    }

    /// The best choice with the ring and the order of `all`, which gives everything to the GPU.
    private func search(from all: ComputationSplit, _ fill: MemoryFill) -> Choice? {
        var best: (split: ComputationSplit, choice: Choice)?
        func cost(_ split: ComputationSplit) -> Double {
            guard let choice = choice(split, fill) else { return .infinity }
            if choice.seconds < best?.choice.seconds ?? .infinity { best = (split, choice) }
            return choice.seconds
        }
        _ = cost(all)
        for kinds in Self.kindSets {
            scan { cost(giving($0, of: kinds, from: all)) }
        }
        if let start = best?.split { descend(from: start, cost) }
        return best?.choice
    }

    /// As deep as it may be, and half of that: the memory that a shorter ring leaves may be worth more than its depth.
    private var slotCounts: [Int] {
        let most = working.stagingSlotCount
        return most > 3 ? [most, most / 2] : [most]
    }

    /// Of which kinds the CPU takes a part: 1 or 0 for each, in all combinations with at least one.
    private static let kindSets: [(heads: Double, neurons: Double, rows: Double)] = [
        (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
    ]

    /// The split in which the CPU computes `share` of `kinds`.
    private func giving(
        _ share: Double, of kinds: (heads: Double, neurons: Double, rows: Double),
        from all: ComputationSplit
    ) -> ComputationSplit {
        func part(_ count: Int, _ isTaken: Double) -> Int { Int((Double(count) * share * isTaken).rounded()) }
        var split = all
        split.headCount -= part(all.headCount, kinds.heads)
        split.neuronUnitCount -= part(all.neuronUnitCount, kinds.neurons)
        split.rowUnitCount -= part(all.rowUnitCount, kinds.rows)
        return split
    }

    /// Looks for the least cost of shares from 0 to 1: in sixteenths, then by golden sections around the best of them.
    private func scan(_ cost: (Double) -> Double) {
        let count = 16
        let costs = (1...count).map { cost(Double($0) / Double(count)) }
        guard let least = costs.min(), least < .infinity, let index = costs.firstIndex(of: least) else {
            return
        }
        var low = Double(index) / Double(count)
        var high = min(1, Double(index + 2) / Double(count))
        let ratio = 0.618
        var left = high - ratio * (high - low)
        var right = low + ratio * (high - low)
        var (leftCost, rightCost) = (cost(left), cost(right))
        for _ in 0..<8 {
            if leftCost <= rightCost {
                (high, right, rightCost) = (right, left, leftCost)
                left = high - ratio * (high - low)
                leftCost = cost(left)
            } else {
                (low, left, leftCost) = (left, right, rightCost)
                right = low + ratio * (high - low)
                rightCost = cost(right)
            }
        }
    }

    /// Takes the best of all moves by one step as long as one is better, then halves the step.
    private func descend(from start: ComputationSplit, _ cost: (ComputationSplit) -> Double) {
        var split = start
        var least = cost(start)
        for step in [8, 4, 2, 1] {
            for _ in 0..<16 {
                let next = moves.flatMap { [moved(split, $0, by: step), moved(split, $0, by: -step)] }
                    .compactMap { $0 }.map { ($0, cost($0)) }.min { $0.1 < $1.1 }
                guard let next, next.1 < least else { break }
                (split, least) = next
            }
        }
    }

    /// What a step changes, in heads, units of neurons and units of rows: one kind alone, or two by as many bytes.
    private var moves: [(heads: Int, neurons: Int, rows: Int)] {
        let unit = Placement.rowUnit
        let neurons = max(1, shape.bytesPerHead / max(1, unit * shape.bytesPerNeuron))
        let rows = max(1, shape.layerCount * shape.bytesPerHead / max(1, unit * shape.bytesPerTokenRow))
        return [
            (1, 0, 0), (0, 1, 0), (0, 0, max(1, rows / 8)), (1, -neurons, 0), (1, 0, -rows),
            (0, 1, -max(1, rows / neurons)),
        ]
    }

    /// `split` by so many moves on, as far as there are heads, neurons and rows; nil where it stays as it is.
    private func moved(
        _ split: ComputationSplit, _ move: (heads: Int, neurons: Int, rows: Int), by count: Int
    ) -> ComputationSplit? {
        let all = ComputationSplit.everything(shape, slotCount: split.slotCount)
        func clamped(_ start: Int, _ change: Int, _ limit: Int) -> Int {
            min(max(0, start + change * count), limit)
        }
        var moved = split
        moved.headCount = clamped(split.headCount, move.heads, all.headCount)
        moved.neuronUnitCount = clamped(split.neuronUnitCount, move.neurons, all.neuronUnitCount)
        moved.rowUnitCount = clamped(split.rowUnitCount, move.rows, all.rowUnitCount)
        return moved == split ? nil : moved
    }
}
