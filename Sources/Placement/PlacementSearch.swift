/// Looks for the percentages with the most weights on the GPU that still fit.
struct PlacementSearch {
    let shape: ModelShape
    let budget: MemoryBudget
    let working: WorkingMemory

    /// The best request that keeps as much as possible of `asked`: first its embeddings and its cache, then its cache,
    /// then nothing but its computation; nil where none fits.
    func nearest(to asked: PlacementRequest) -> PlacementRequest? {
        let cap = min(asked.computation.inputEmbedding, asked.computation.outputEmbedding).rounded(.down)
        let embeddings =
            [(asked.weights.inputEmbedding, asked.weights.outputEmbedding)]
            + [
                TierShares(uncheckedGPU: cap, cpu: 100 - cap), .allOnCPU,
                TierShares(uncheckedGPU: cap, cpu: 0), .allOnDisk,
            ].map { ($0, $0) }
        for cache in caches(asked) {
            for (input, output) in embeddings {
                let weights = PerLayerKind(
                    inputEmbedding: input, outputEmbedding: output, attention: TierShares.allOnDisk,
                    mlp: TierShares.allOnDisk)
                let kept = PlacementRequest(
                    unchecked: weights, cache: cache, computation: asked.computation,
                    weightFlag: asked.weightFlag)
                if let found = largest(keeping: kept) { return found }
            }
        }
        return nil
    }

    /// The caches to try: the one asked, then as much as possible on the GPU, the rest on the CPU, at last on the disk.
    private func caches(_ asked: PlacementRequest) -> [TierShares] {
        guard working.cachePositionCount > 0 else { return [asked.cache] }
        let percents = stride(from: asked.computation.attention.rounded(.down), through: 0, by: -1)
        return [asked.cache] + percents.map { TierShares(uncheckedGPU: $0, cpu: 100 - $0) }
            + percents.map { TierShares(uncheckedGPU: $0, cpu: 0) }
    }

    /// `request` with the largest whole GPU percentage of attention and MLP, alike, that fits, and with that the largest
    /// of the CPU; nil where none fits.
    private func largest(keeping request: PlacementRequest) -> PlacementRequest? {
        let cap = Int(min(request.computation.attention, request.computation.mlp).rounded(.down))
        // Apart from the others: with everything resident no ring is needed, so that 100 may fit where 99 does not.
        if fits(.gpu, request, gpuPercent: cap, cpuPercent: 0) {
            return largestOnCPU(request, gpuPercent: cap)
        }
        // Below, the GPU's need only grows with its percentage, and what it leaves to the others shrinks.
        let gpuPercent = Self.largest(below: cap) { fits(.gpu, request, gpuPercent: $0, cpuPercent: 0) }
        return gpuPercent.flatMap { largestOnCPU(request, gpuPercent: $0) }
    }

    private func largestOnCPU(_ request: PlacementRequest, gpuPercent: Int) -> PlacementRequest? {
        // Apart from the others: with nothing on the disk no read buffers are needed.
        let rest = 100 - gpuPercent
        let full = Self.request(request, gpuPercent: gpuPercent, cpuPercent: rest)
        if budget.holds(demand(full)) { return full }
        let cpuPercent = Self.largest(below: rest) {
            fits(.cpu, request, gpuPercent: gpuPercent, cpuPercent: $0)
        }
        guard let cpuPercent else { return nil }
        let best = Self.request(request, gpuPercent: gpuPercent, cpuPercent: cpuPercent)
        return budget.holds(demand(best)) ? best : nil
    }

    private func demand(_ request: PlacementRequest) -> MemoryDemand {
        MemoryDemand(Placement(shape, request), working)
    }

    private func fits(_ tier: Tier, _ request: PlacementRequest, gpuPercent: Int, cpuPercent: Int) -> Bool {
        let changed = Self.request(request, gpuPercent: gpuPercent, cpuPercent: cpuPercent)
        return demand(changed).byteCount(on: tier) <= budget[tier]
    }

    /// `request` with these percentages of attention and MLP.
    private static func request(
        _ request: PlacementRequest, gpuPercent: Int, cpuPercent: Int
    ) -> PlacementRequest {
        let shares = TierShares(uncheckedGPU: Double(gpuPercent), cpu: Double(cpuPercent))
        var weights = request.weights
        weights.attention = shares
        weights.mlp = shares
        return PlacementRequest(
            unchecked: weights, cache: request.cache, computation: request.computation,
            weightFlag: request.weightFlag)
    }

    /// The largest number from 0 to under `limit` that fits, where all below a fitting one fit too; nil where 0 does not.
    private static func largest(below limit: Int, fits: (Int) -> Bool) -> Int? {
        var fitting = -1
        var failing = limit
        while failing - fitting > 1 {
            let middle = (fitting + failing) / 2
            if fits(middle) { fitting = middle } else { failing = middle }
        }
        return fitting < 0 ? nil : fitting
    }
}
