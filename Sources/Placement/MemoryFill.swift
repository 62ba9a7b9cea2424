/// Puts weights and cache where there is room: on the GPU as much as possible of what it computes, the rest on the CPU,
/// and what has no room there on the disk, if the GPU computes all of its kind.
struct MemoryFill {
    private let shape: ModelShape
    private let budget: MemoryBudget
    private let working: WorkingMemory
    /// What the GPU needs in any case, and what the CPU does where it computes.
    private let gpuBase: Int
    private let cpuBase: Int
    /// Slots through which prefill gets what the CPU computes.
    private let fetchByteCount: Int
    private let bytesPerCacheHead: Int
    private let bytesPerLayersHead: Int
    private let bytesPerLayersNeuron: Int

    init(_ shape: ModelShape, _ budget: MemoryBudget, _ working: WorkingMemory) {
        self.shape = shape
        self.budget = budget
        self.working = working
        bytesPerCacheHead = working.cachePositionCount * shape.cacheBytesPerHead
        bytesPerLayersHead = shape.layerCount * shape.bytesPerHead
        bytesPerLayersNeuron = shape.layerCount * shape.bytesPerNeuron
        // Asked of `MemoryDemand`, which alone knows what a run needs beside weights and cache.
        var alone = working
        alone.cachePositionCount = 0
        alone.stagingSlotCount = 0
        func demand(computationPercent: Double) -> MemoryDemand {
            let request = PlacementRequest(
                unchecked: PerLayerKind(repeating: .allOnCPU), cache: .allOnCPU,
                computation: PerLayerKind(repeating: computationPercent), weightFlag: .perLayerWeightPercent)
            return MemoryDemand(Placement(shape, request), alone)
        }
        let gpuComputes = demand(computationPercent: 100)
        let cpuComputes = demand(computationPercent: 0)
        gpuBase = gpuComputes.byteCount(on: .gpu)
        fetchByteCount = cpuComputes.byteCount(on: .gpu) - gpuBase
        cpuBase = cpuComputes.byteCount(on: .cpu) - gpuComputes.byteCount(on: .cpu)
    }

    /// The placement of a split; nil where it has no room.
    func placement(_ split: ComputationSplit) -> Placement? {
        let neuronCount = ComputationSplit.rowCount(split.neuronUnitCount, of: shape.feedForwardSize)
        let rowCount = ComputationSplit.rowCount(split.rowUnitCount, of: shape.vocabularySize)
        let computed = Parts(headCount: split.headCount, neuronCount: neuronCount, rowCount: rowCount)
        guard let resident = residents(computed, split), let host = hosted(computed, resident) else {
            return nil
        }
        guard let request = request(computed, resident, host) else { return nil }
        let placement = Placement(shape, request)
        var working = working
        working.stagingSlotCount = split.slotCount
        return budget.holds(MemoryDemand(placement, working)) ? placement : nil
    }

    /// Parts of a layer, of its cache and of the tables, counted from the first head, neuron and row.
    private struct Parts {
        var headCount = 0
        var neuronCount = 0
        var rowCount = 0
        var cacheHeadCount = 0
        var hasPositions = false

        var isEmpty: Bool { headCount == 0 && neuronCount == 0 && rowCount == 0 }
    }

    private var all: Parts {
        Parts(
            headCount: shape.headCount, neuronCount: shape.feedForwardSize, rowCount: shape.vocabularySize,
            cacheHeadCount: shape.headCount, hasPositions: true)
    }

    private var positionTableByteCount: Int { shape.positionRowCount * shape.bytesPerPositionRow }

    // MARK: The GPU

    /// What lies on the GPU: all that it computes if that has room without a ring, else as much as has beside one.
    private func residents(_ computed: Parts, _ split: ComputationSplit) -> Parts? {
        let computesOnCPU =
            computed.headCount < shape.headCount || computed.neuronCount < shape.feedForwardSize
            || computed.rowCount < shape.vocabularySize
        let free = budget.gpuByteCount - gpuBase - (computesOnCPU ? fetchByteCount : 0)
        let weights =
            computed.headCount * bytesPerLayersHead + computed.neuronCount * bytesPerLayersNeuron
            + computed.rowCount * shape.bytesPerTokenRow
        let ring = split.slotCount * working.stagingSlotByteCount
        let needsRing = weights + computed.headCount * bytesPerCacheHead > free
        var room = Room(needsRing ? free - ring : free)
        if room.byteCount < 0 { return nil }
        var parts = Parts()
        if computed.isEmpty { return parts }
        // Read in every step as weights are, but over PCIe without a ring where it lies elsewhere.
        parts.cacheHeadCount = room.take(upTo: computed.headCount, bytesPerUnit: bytesPerCacheHead)
        switch split.order {
        case .attentionFirst:
            parts.headCount = room.take(upTo: computed.headCount, bytesPerUnit: bytesPerLayersHead)
            parts.neuronCount = takeNeurons(&room, computed)
        case .mlpFirst:
            parts.neuronCount = takeNeurons(&room, computed)
            parts.headCount = room.take(upTo: computed.headCount, bytesPerUnit: bytesPerLayersHead)
        case .alike:
            let share = weights == 0 ? 1 : min(1, Double(room.byteCount) / Double(weights))
            parts.headCount = room.take(
                upTo: Int(Double(computed.headCount) * share), bytesPerUnit: bytesPerLayersHead)
            parts.neuronCount = takeNeurons(&room, computed)
        }
        parts.rowCount = room.take(
            upTo: computed.rowCount, bytesPerUnit: shape.bytesPerTokenRow, multiple: Placement.rowUnit)
        parts.hasPositions = room.take(upTo: 1, bytesPerUnit: positionTableByteCount) == 1
        return parts
    }

    private func takeNeurons(_ room: inout Room, _ computed: Parts) -> Int {
        room.take(
            upTo: computed.neuronCount, bytesPerUnit: bytesPerLayersNeuron, multiple: Placement.rowUnit)
    }

    // MARK: CPU memory

    /// What lies on the GPU or in CPU memory; what is missing has room on the disk only. nil where the CPU would have to
    /// compute with that.
    private func hosted(_ computed: Parts, _ resident: Parts) -> Parts? {
        hosted(computed, resident, readBufferByteCount: 0, allowsDisk: false)
            ?? hosted(
                computed, resident, readBufferByteCount: working.readBufferByteCount, allowsDisk: true)
    }

    private func hosted(
        _ computed: Parts, _ resident: Parts, readBufferByteCount: Int, allowsDisk: Bool
    ) -> Parts? {
        let all = all
        let computesOnCPU =
            computed.headCount < all.headCount || computed.neuronCount < all.neuronCount
            || computed.rowCount < all.rowCount
        var room = Room(budget.cpuByteCount - (computesOnCPU ? cpuBase : 0) - readBufferByteCount)
        if room.byteCount < 0 { return nil }
        var parts = resident
        /// Moves what is missing of a kind to CPU memory. What the CPU computes must have room there.
        func take(
            _ count: WritableKeyPath<Parts, Int>, isComputedOnGPU: Bool, bytesPerUnit: Int, multiple: Int = 1
        ) -> Bool {
            let wanted = all[keyPath: count] - parts[keyPath: count]
            let taken = room.take(upTo: wanted, bytesPerUnit: bytesPerUnit, multiple: multiple)
            parts[keyPath: count] += taken
            return taken == wanted || allowsDisk && isComputedOnGPU
        }
        let positions = resident.hasPositions ? 0 : 1
        if room.take(upTo: positions, bytesPerUnit: positionTableByteCount) < positions { return nil }
        parts.hasPositions = true
        let cache = all.cacheHeadCount - resident.cacheHeadCount
        if bytesPerCacheHead > 0, cache * bytesPerCacheHead > room.byteCount {
            // Slots for some layers of what goes to the disk.
            let slots = min(working.cacheSlotCount, shape.layerCount)
            room.reserve(cache * bytesPerCacheHead / max(1, shape.layerCount) * slots)
        }
        let attentionIsOnGPU = computed.headCount == all.headCount
        let fits =
            take(\.cacheHeadCount, isComputedOnGPU: attentionIsOnGPU, bytesPerUnit: bytesPerCacheHead)
            && take(
                \.rowCount, isComputedOnGPU: computed.rowCount == all.rowCount,
                bytesPerUnit: shape.bytesPerTokenRow, multiple: Placement.rowUnit)
            && take(\.headCount, isComputedOnGPU: attentionIsOnGPU, bytesPerUnit: bytesPerLayersHead)
            && take(
                \.neuronCount, isComputedOnGPU: computed.neuronCount == all.neuronCount,
                bytesPerUnit: bytesPerLayersNeuron, multiple: Placement.rowUnit)
        return fits ? parts : nil
    }

    // MARK: Percentages

    /// The request that is cut into just these parts: `host` are those on GPU and CPU together.
    private func request(_ computed: Parts, _ resident: Parts, _ host: Parts) -> PlacementRequest? {
        func shares(_ count: KeyPath<Parts, Int>, unit: Int = Placement.rowUnit) -> TierShares {
            let all = all[keyPath: count]
            return .cutting(gpu: resident[keyPath: count], host: host[keyPath: count], of: all, unit: unit)
        }
        func percent(_ count: KeyPath<Parts, Int>, unit: Int = Placement.rowUnit) -> Double {
            TierShares.percentCutting(computed[keyPath: count], of: all[keyPath: count], unit: unit)
        }
        let weights = PerLayerKind(
            inputEmbedding: resident.hasPositions ? TierShares.allOnGPU : .allOnCPU,
            outputEmbedding: shares(\.rowCount), attention: shares(\.headCount, unit: 1),
            mlp: shares(\.neuronCount))
        // The GPU looks positions up wherever they lie; where it computes nothing else that is no computation either.
        let computation = PerLayerKind(
            inputEmbedding: computed.isEmpty ? 0 : 100,
            outputEmbedding: percent(\.rowCount), attention: percent(\.headCount, unit: 1),
            mlp: percent(\.neuronCount))
        let isBalanced = LayerKind.allCases.contains { computation[$0] < 100 }
        return try? PlacementRequest(
            weights: weights, cache: shares(\.cacheHeadCount, unit: 1), computation: computation,
            weightFlag: isBalanced ? .perLayerWeightPercent : .perLayerPercent)
    }
}

/// Free bytes that are taken unit by unit.
private struct Room {
    private(set) var byteCount: Int

    init(_ byteCount: Int) { self.byteCount = byteCount }

    mutating func reserve(_ byteCount: Int) { self.byteCount -= byteCount }

    /// Takes room for as many units as there is, all of `limit` or a multiple.
    mutating func take(upTo limit: Int, bytesPerUnit: Int, multiple: Int = 1) -> Int {
        let room = max(0, byteCount) / max(1, bytesPerUnit)
        let count = bytesPerUnit == 0 || room >= limit ? limit : room / multiple * multiple
        byteCount -= count * bytesPerUnit
        return count
    }
}

extension TierShares {
    /// The shares that cut `count` at `gpu` and `host`, multiples of `unit`.
    static func cutting(gpu: Int, host: Int, of count: Int, unit: Int) -> TierShares {
        let first = percentCutting(gpu, of: count, unit: unit)
        let second = percentCutting(host, of: count, unit: unit)
        return TierShares(uncheckedGPU: first, cpu: hundredths(second - first))
    }

    /// The percentage of `count` that is cut at `boundary`; with two decimals if that is exact enough.
    static func percentCutting(_ boundary: Int, of count: Int, unit: Int) -> Double {
        let exact = 100 * Double(boundary) / Double(max(1, count))
        let short = hundredths(exact)
        return RangeSplit.boundary(percent: short, count: count, unit: unit) == boundary ? short : exact
    }

    private static func hundredths(_ percent: Double) -> Double { (percent * 100).rounded() / 100 }
}
