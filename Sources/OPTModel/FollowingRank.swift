import Collectives

/// A process of a group other than rank 0: it does its part of what rank 0 says, until rank 0 ends.
public final class FollowingRank {
    private let lane: any Lane
    private let channel: any CommandChannel
    private let batch: StepBatch
    private var caches: [UInt32: any LaneCache] = [:]

    public init(_ lane: any Lane, channel: any CommandChannel) {
        self.lane = lane
        self.channel = channel
        batch = StepBatch(
            rowCapacity: lane.rowCapacity, segmentCapacity: lane.segmentCapacity,
            logitsCapacity: lane.logitsCapacity)
    }

    /// Called on the pool's leader thread; returns when rank 0 has ended.
    public func run() throws(ModelError) {
        var buffer: [UInt8] = []
        while try receive(into: &buffer) {
            guard let command = buffer.withUnsafeBytes({ GroupCommand($0, batch: batch) }) else {
                throw ModelError(
                    .group,
                    "rank 0 sent a command that this rank does not know: start the same program everywhere")
            }
            switch command {
            case .makeCache(let id, let capacities, let logitsCount):
                caches[id] = try lane.makeCache(capacities: capacities, logitsCount: logitsCount)
            case .releaseCache(let id): caches[id] = nil
            case .measureSums(let rowCount): _ = try (lane as? GPULane)?.measureSums(rowCount: rowCount)
            case .compute(let id):
                guard let cache = caches[id] else {
                    throw ModelError(.group, "rank 0 uses a cache that this rank does not have")
                }
                try lane.compute(batch, cache: cache) { _, _ in }
            }
        }
    }

    private func receive(into buffer: inout [UInt8]) throws(ModelError) -> Bool {
        do {
            return try channel.receive(into: &buffer)
        } catch {
            throw ModelError(.group, error.description)
        }
    }
}
