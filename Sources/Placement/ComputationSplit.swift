/// How much of each kind of layer the GPU computes, and how its memory is filled: one choice that a planner weighs.
struct ComputationSplit: Hashable {
    /// Which weights lie on the GPU where not all that it computes have room.
    enum FillOrder: CaseIterable {
        case attentionFirst
        case mlpFirst
        /// The same share of both.
        case alike
    }

    /// Heads of a layer.
    var headCount: Int
    /// Units of `Placement.rowUnit` neurons of a layer, the last of which may be smaller.
    var neuronUnitCount: Int
    /// Units of `Placement.rowUnit` rows of the output embedding, the last of which may be smaller.
    var rowUnitCount: Int
    var order = FillOrder.alike
    var slotCount: Int

    /// All of the layers.
    static func everything(_ shape: ModelShape, slotCount: Int) -> ComputationSplit {
        ComputationSplit(
            headCount: shape.headCount, neuronUnitCount: unitCount(shape.feedForwardSize),
            rowUnitCount: unitCount(shape.vocabularySize), slotCount: slotCount)
    }

    /// `percent` of each kind, to the nearest unit.
    static func alike(_ percent: Double, _ shape: ModelShape, slotCount: Int) -> ComputationSplit {
        func nearest(_ count: Int) -> Int { RangeSplit.boundary(percent: percent, count: count, unit: 1) }
        let all = everything(shape, slotCount: slotCount)
        return ComputationSplit(
            headCount: nearest(all.headCount), neuronUnitCount: nearest(all.neuronUnitCount),
            rowUnitCount: nearest(all.rowUnitCount), slotCount: slotCount)
    }

    /// Neurons or rows in so many units, of `total`.
    static func rowCount(_ unitCount: Int, of total: Int) -> Int {
        min(unitCount * Placement.rowUnit, total)
    }

    private static func unitCount(_ count: Int) -> Int {
        (count + Placement.rowUnit - 1) / Placement.rowUnit
    }
}
