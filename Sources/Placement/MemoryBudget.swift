/// The bytes that are free on each tier.
public struct MemoryBudget: Sendable, Hashable {
    public var gpuByteCount: Int
    public var cpuByteCount: Int
    public var diskByteCount: Int

    public init(gpuByteCount: Int, cpuByteCount: Int, diskByteCount: Int) {
        self.gpuByteCount = gpuByteCount
        self.cpuByteCount = cpuByteCount
        self.diskByteCount = diskByteCount
    }

    public subscript(tier: Tier) -> Int {
        switch tier {
        case .gpu: gpuByteCount
        case .cpu: cpuByteCount
        case .disk: diskByteCount
        }
    }

    /// Whether every tier has room for what is needed on it.
    public func holds(_ demand: MemoryDemand) -> Bool {
        Tier.allCases.allSatisfy { demand.byteCount(on: $0) <= self[$0] }
    }

    /// Throws `outOfMemory` where `placement` does not fit; the sentence says what is needed and free on each tier that
    /// is short, and which percentages would fit.
    ///
    /// These keep what was asked for embeddings and cache if anything fits so, with the largest whole percentage of
    /// attention and MLP, alike, on the GPU, then on the CPU, and the rest on the disk.
    public func check(_ placement: Placement, _ working: WorkingMemory) throws(PlacementError) {
        let demand = MemoryDemand(placement, working)
        guard !holds(demand) else { return }
        let shortages = Tier.allCases.filter { demand.byteCount(on: $0) > self[$0] }.map {
            shortage(demand, $0)
        }
        let search = PlacementSearch(shape: placement.shape, budget: self, working: working)
        let suggestion = search.nearest(to: placement.request)
        throw PlacementError(
            .outOfMemory,
            "the model does not fit: \(shortages.joined(separator: "; "))",
            advice: Self.advice(suggestion, asked: placement.request), suggestion: suggestion)
    }

    /// "the GPU needs 12.35 GiB (self-attention 4.00, …) and has 8.00 GiB free"; needs are rounded up, room down. What is in
    /// brackets has the unit before them.
    private func shortage(_ demand: MemoryDemand, _ tier: Tier) -> String {
        let needed = demand.byteCount(on: tier)
        let unit = ByteUnit(for: needed)
        let items = demand.items.filter { $0.tier == tier }.map {
            "\($0.purpose.label) \(unit.text($0.byteCount))"
        }
        return "\(tier.noun) needs \(needed.byteSize(rounding: .up)) "
            + "(\(items.joined(separator: ", "))) and has \(self[tier].byteSize(rounding: .down)) free"
    }

    private static func advice(_ suggestion: PlacementRequest?, asked: PlacementRequest) -> String {
        guard let suggestion else {
            return "no percentages would fit: take a smaller model, fewer or shorter sequences, or free some "
                + "memory"
        }
        let cache = suggestion.cache == asked.cache ? "" : " \(suggestion.cacheArguments)"
        return "\(suggestion.weightArguments)\(cache) would fit"
    }
}
