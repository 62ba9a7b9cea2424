import SystemShims

/// The GPUs of a group, one for each process, as NCCL connects them: over NVLink, PCIe or the network.
///
/// Its calls put work into a stream and return; they may be captured in a graph. All processes make the same calls in the
/// same order. GPU memory is given by address, a stream by the driver's handle.
public final class NCCLCommunicator: @unchecked Sendable {  // used by one thread at a time
    public let place: RankPlace
    public var libraryVersion: String { library.version }
    private let library: NCCLLibrary
    private let handle: NCCLLibrary.Handle

    /// What all processes need to find each other: made by rank 0.
    public static func makeName() throws(CollectiveError) -> [UInt8] {
        let library = try NCCLLibrary.shared.get()
        var id = tandem_bytes_128()
        try library.check(library.getUniqueID(&id), nil, "naming the group")
        return withUnsafeBytes(of: id) { Array($0) }
    }

    /// Connects this process's GPU, whose context must be current, with the others': all processes call it.
    public init(_ place: RankPlace, name: [UInt8]) throws(CollectiveError) {
        let library = try NCCLLibrary.shared.get()
        var id = tandem_bytes_128()
        withUnsafeMutableBytes(of: &id) { $0.copyBytes(from: name.prefix(128)) }
        var handle: NCCLLibrary.Handle = nil
        try library.check(
            library.initRank(&handle, Int32(place.size), id, Int32(place.rank)), nil, "connecting the GPUs")
        self.library = library
        self.place = place
        self.handle = handle
    }

    /// result = the sum over all processes of `values`, fp32; both may be the same memory.
    public func allReduce(
        _ values: UInt64, to result: UInt64, count: Int, on stream: OpaquePointer?
    ) throws(CollectiveError) {
        try library.check(
            library.allReduce(
                UnsafeRawPointer(bitPattern: UInt(values)),
                UnsafeMutableRawPointer(bitPattern: UInt(result)), count, NCCLLibrary.float,
                NCCLLibrary.sum, handle, stream), handle, "summing up the ranks' parts")
    }

    /// Brings each process's rows to rank 0, whose own are in their place already.
    ///
    /// - Parameters:
    ///   - rows: of `counts`' own count of values each, one behind the other, fp32.
    ///   - result: on rank 0, rows of all values, the processes' parts in the order of ranks.
    public func gather(
        rows: Int, of values: UInt64, counts: GatherCounts, to result: UInt64, on stream: OpaquePointer?
    ) throws(CollectiveError) {
        let action = "gathering the logits"
        try library.check(library.groupStart(), handle, action)
        let total = (0..<counts.size).reduce(0) { $0 + counts.count(of: $1) }
        for row in 0..<rows {
            if place.rank > 0 {
                let count = counts.count(of: place.rank)
                if count == 0 { continue }
                let from = UnsafeRawPointer(bitPattern: UInt(values) + UInt(4 * row * count))
                try library.check(
                    library.send(from, count, NCCLLibrary.float, 0, handle, stream), handle, action)
                continue
            }
            for rank in 1..<place.size where counts.count(of: rank) > 0 {
                let to = UInt(result) + UInt(4 * (row * total + counts.offset(of: rank)))
                try library.check(
                    library.receive(
                        UnsafeMutableRawPointer(bitPattern: to), counts.count(of: rank), NCCLLibrary.float,
                        Int32(rank), handle, stream), handle, action)
            }
        }
        try library.check(library.groupEnd(), handle, action)
    }

    /// Throws where the GPUs' exchange has failed behind the calls' back.
    public func checkProgress() throws(CollectiveError) {
        var status: NCCLLibrary.Status = 0
        try library.check(library.asynchronousError(handle, &status), handle, "asking for its state")
        try library.check(status, handle, "exchanging between GPUs")
    }
}
