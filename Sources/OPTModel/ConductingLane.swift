import Collectives
import Synchronization

/// Rank 0's lane in a group of processes: it has the others do what it is asked to do, each with its part of the model, and
/// does its own part.
///
/// Nothing above it knows of the group: rank 0 alone has sessions, chooses tokens and prints.
public final class ConductingLane: Lane, @unchecked Sendable {  // `writer` and `nextID` are the leader's
    public let local: any Lane
    private let channel: any CommandChannel
    private let writer: GroupCommandWriter
    private let released = Releases()
    private var nextID: UInt32 = 0

    /// - Parameter local: this process's part.
    public init(_ local: any Lane, channel: any CommandChannel) {
        self.local = local
        self.channel = channel
        writer = GroupCommandWriter(rowCapacity: local.rowCapacity, segmentCapacity: local.segmentCapacity)
    }

    public var rowCapacity: Int { local.rowCapacity }
    public var segmentCapacity: Int { local.segmentCapacity }
    public var logitsCapacity: Int { local.logitsCapacity }

    public func makeCache(capacities: [Int], logitsCount: Int) throws(ModelError) -> any LaneCache {
        // The own part first: where it does not fit, nobody has begun anything.
        let cache = try local.makeCache(capacities: capacities, logitsCount: logitsCount)
        try sendReleases()
        nextID &+= 1
        writer.makeCache(id: nextID, capacities: capacities, logitsCount: logitsCount)
        try send()
        return GroupCache(nextID, cache, released)
    }

    public func compute(
        _ batch: StepBatch, cache: any LaneCache,
        _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws(ModelError) {
        if batch.rowCount == 0 { return }
        let cache = unsafeDowncast(cache, to: GroupCache.self)
        try sendReleases()
        writer.compute(batch, cache: cache.id)
        try send()
        try local.compute(batch, cache: cache.local, body)
    }

    /// The seconds of one sum of `rowCount` rows over all processes; nil where it goes by way of CPU memory.
    public func measureSums(rowCount: Int) throws(ModelError) -> Double? {
        guard let lane = local as? GPULane else { return nil }
        writer.measureSums(rowCount: rowCount)
        try send()
        return try lane.measureSums(rowCount: rowCount)
    }

    private func sendReleases() throws(ModelError) {
        while let id = released.next() {
            writer.releaseCache(id: id)
            try send()
        }
    }

    private func send() throws(ModelError) {
        do {
            try channel.send(writer.bytes)
        } catch {
            throw ModelError(.group, error.description)
        }
    }
}

/// The caches of all processes for some sequences; this process's is `local`.
private final class GroupCache: LaneCache {
    let id: UInt32
    let local: any LaneCache
    private let released: Releases

    init(_ id: UInt32, _ local: any LaneCache, _ released: Releases) {
        self.id = id
        self.local = local
        self.released = released
    }

    // On whatever thread; the others are told with the next command.
    deinit { released.add(id) }

    var capacities: [Int] { local.capacities }
    var byteCount: Int { local.byteCount }
}

/// Caches that nobody uses any more.
private final class Releases: Sendable {
    private let ids = Mutex<[UInt32]>([])
    private let count = Atomic<Int>(0)

    func add(_ id: UInt32) {
        ids.withLock { $0.append(id) }
        count.wrappingAdd(1, ordering: .releasing)
    }

    func next() -> UInt32? {
        if count.load(ordering: .acquiring) == 0 { return nil }
        count.wrappingSubtract(1, ordering: .relaxed)
        return ids.withLock { $0.popLast() }
    }
}
