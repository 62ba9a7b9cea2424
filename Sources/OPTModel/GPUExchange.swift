import CUDA
import CUDAKernelImage
import Collectives

/// How the GPUs of a group exchange their sums without the CPUs: by NCCL, and within a machine through each other's memory.
public struct GPUExchange: Sendable {
    /// All processes give some bytes, and get those of all in the order of ranks.
    public typealias AllGather = @Sendable ([UInt8]) throws -> [[UInt8]]

    let place: RankPlace
    /// For what is large, and where GPUs do not see each other's memory; nil only in tests.
    let nccl: NCCLCommunicator?
    /// [2][ranks][`mostCount`] × (word, number) on every rank, for sums that go in one shot; nil where they do not.
    let memory: PeerMemory?
    /// For further memory of the kind.
    private let allGather: AllGather?

    /// The most elements of a sum that goes in one shot: beyond 256 KB NCCL is as fast.
    static let mostCount = 65536

    /// For tests in one process: sums through `memory`, large ones in the way that `GroupPart` has beside this.
    init(_ place: RankPlace, memory: PeerMemory?) {
        self.place = place
        self.memory = memory
        nccl = nil
        allGather = nil
    }

    /// Connects the GPUs: all processes call it at the same time, each with its GPU's context.
    ///
    /// - Throws: `CollectiveError` where NCCL is missing on a rank, or what was asked for cannot be.
    public init(
        _ place: RankPlace, _ choice: AllReduceChoice, context: Context, allGather: @escaping AllGather
    ) throws {
        self.place = place
        self.allGather = allGather
        try context.makeCurrent()
        let nccl = try Self.connect(place, allGather)
        try Self.warmUp(nccl, context)
        self.nccl = nccl
        memory =
            choice == .nccl
            ? nil
            : try Self.makeMemory(
                place, byteCount: Self.memoryByteCount(place.size), filledWith: 0,
                isNeeded: choice == .oneShot, context, allGather)
    }

    /// NCCL's name and version.
    var libraryVersion: String { nccl?.libraryVersion ?? "CPU memory" }

    /// How sums up to 256 KB go, as a report says it.
    var smallSumsWay: String { memory == nil ? libraryVersion : "one shot through peer memory" }

    static func memoryByteCount(_ rankCount: Int) -> Int { 2 * rankCount * mostCount * 8 }

    /// Further memory that all ranks see, as long as sums go in one shot; nil where they do not. All processes call it.
    func makeMemory(byteCount: Int, filledWith byte: UInt8, context: Context) throws -> PeerMemory? {
        guard let allGather, memory != nil else { return nil }
        return try Self.makeMemory(
            place, byteCount: byteCount, filledWith: byte, isNeeded: false, context, allGather)
    }

    /// Whether all processes say yes.
    func agree(_ isReady: Bool) throws -> Bool {
        guard let allGather else { return isReady }
        return try allGather([isReady ? 1 : 0]).allSatisfy { $0 == [1] }
    }

    /// The least of what all processes give.
    func least(_ number: Int) throws -> Int? {
        guard let allGather else { return number }
        let texts = try allGather(Array(String(number).utf8))
        return texts.compactMap { Int(String(decoding: $0, as: UTF8.self)) }.min()
    }

    private static func connect(_ place: RankPlace, _ allGather: AllGather) throws -> NCCLCommunicator {
        // Every rank tries for itself, so that the one at fault says so.
        let own = Result { () throws(CollectiveError) in try NCCLCommunicator.makeName() }
        let names = try allGather((try? own.get()) ?? [])
        _ = try own.get()
        if let missing = names.firstIndex(where: \.isEmpty) {
            throw CollectiveError(.missingLibrary, "rank \(missing) has no NCCL", isSaidElsewhere: true)
        }
        return try NCCLCommunicator(place, name: names[0])
    }

    /// NCCL connects the GPUs when it first needs to, anew for small and large sums and for gathering: 1.5 s, which the first
    /// prompt would wait for.
    private static func warmUp(_ nccl: NCCLCommunicator, _ context: Context) throws {
        let stream = try Stream(context: context)
        let counts = GatherCounts(Array(repeating: 1, count: nccl.place.size))
        let large = 4 << 20
        let memory = try DeviceBuffer(byteCount: large * 4, context: context)
        try stream.fill(memory.address, byteCount: memory.byteCount)
        for count in [1, mostCount, large] {
            try nccl.allReduce(memory.address, to: memory.address, count: count, on: stream.libraryHandle)
        }
        try nccl.gather(
            rows: 1, of: memory.address, counts: counts, to: memory.address, on: stream.libraryHandle)
        try stream.synchronize()
    }

    private static func makeMemory(
        _ place: RankPlace, byteCount: Int, filledWith byte: UInt8, isNeeded: Bool, _ context: Context,
        _ allGather: AllGather
    ) throws -> PeerMemory? {
        let isPossible = place.localSize == place.size && place.size <= Int(TANDEM_GPU_MOST_RANKS)
        if isNeeded && !isPossible {
            throw CollectiveError(
                .disagreement,
                "--all-reduce one-shot is for up to \(TANDEM_GPU_MOST_RANKS) GPUs of one machine: leave it out",
                isSaidElsewhere: place.rank > 0)
        }
        if !isPossible { return nil }
        var problem: (any Error)?
        var memory: PeerMemory?
        var name: [UInt8] = []
        do {
            memory = try PeerMemory(byteCount: byteCount, filledWith: byte, context: context)
            name = try memory!.name()
        } catch {
            problem = error
        }
        let names = try allGather(name)
        if problem == nil && names.allSatisfy({ !$0.isEmpty }) {
            do { try memory!.open(names, rank: place.rank) } catch { problem = error }
        }
        let areReady = try allGather([problem == nil && !name.isEmpty ? 1 : 0]).map { $0 == [1] }
        if areReady.allSatisfy(\.self) { return memory }
        if !isNeeded { return nil }
        throw CollectiveError(
            .library,
            "--all-reduce one-shot: the GPUs do not see each other's memory"
                + (problem.map { " (\($0))" } ?? "") + "; leave it out",
            isSaidElsewhere: areReady.firstIndex(of: false) != place.rank)
    }
}
