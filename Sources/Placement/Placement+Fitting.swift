/// Placements without percentages.
extension Placement {
    /// The placement with the most on the GPU: embeddings and cache first, then as much of attention and MLP, alike, as
    /// fits, the rest on the CPU, and what does not fit there on the disk.
    ///
    /// `cache` are the cache's shares where they were asked, `computation` the GPU's percentages. Throws `outOfMemory`
    /// where nothing fits, and as `PlacementRequest` does where `cache` exceeds the computation.
    public static func fitting(
        _ shape: ModelShape, _ budget: MemoryBudget, _ working: WorkingMemory, cache: TierShares? = nil,
        computation: PerLayerKind<Double> = PerLayerKind(repeating: 100)
    ) throws(PlacementError) -> Placement {
        var weights = PerLayerKind(repeating: TierShares.allOnGPU)
        for kind in LayerKind.allCases {
            weights[kind] = try shares(computedPercent: computation[kind])
        }
        var wantedCache = weights.attention
        if let cache { wantedCache = cache }
        let isBalanced = LayerKind.allCases.contains { computation[$0] < 100 }
        let wanted = try PlacementRequest(
            weights: weights, cache: wantedCache, computation: computation,
            weightFlag: isBalanced ? .perLayerWeightPercent : .perLayerPercent)
        let search = PlacementSearch(shape: shape, budget: budget, working: working)
        if let found = search.nearest(to: wanted) { return Placement(shape, found) }
        // Says which tiers are short of the placement that was wanted.
        try budget.check(Placement(shape, wanted), working)
        return Placement(shape, wanted)
    }

    /// On the GPU what it computes, the rest on the CPU.
    private static func shares(computedPercent: Double) throws(PlacementError) -> TierShares {
        try TierShares.checkPercent(computedPercent, "the GPU's computation percentage")
        return try TierShares(gpuPercent: computedPercent, cpuPercent: 100 - computedPercent)
    }
}
