/// What a planner chose, what it expects of it, and what it expects of the two simple choices.
public struct PlacementPlan: Sendable, Hashable {
    public let placement: Placement
    /// The threads of the CPU lane.
    public let threadCount: Int
    /// The slots of the ring through which weights are streamed; of no meaning where none are.
    public let stagingSlotCount: Int
    public let prediction: LatencyPrediction
    public let floor: CostModel.Floor
    /// The GPU computes everything, with as much as possible on it; nil where that has no room, or without a GPU.
    public let allStreamed: LatencyPrediction?
    /// The CPU computes all of the layers in decode steps, and nothing of them lies on the GPU; nil where that has no room.
    public let allOnCPU: LatencyPrediction?

    public var request: PlacementRequest { placement.request }
}
