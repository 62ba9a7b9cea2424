import CUDA

/// The token table or the position table, its rows in GPU memory, in pinned CPU memory and on disk.
///
/// A row that is looked up need not come to the GPU first: the kernel reads it where it lies.
struct PlacedTable: @unchecked Sendable {  // the memory is the weights', read-only once loaded
    var rowByteCount: Int
    var resident: Range<Int>
    var residentAddress: UInt64
    var host: Range<Int>
    /// The rows in CPU memory, as the GPU addresses them; 0 where that memory is not pinned.
    var hostAddress: UInt64
    var hostBase: UnsafeRawPointer?
    var disk: [DiskRows]

    /// A run of rows in the offload file.
    struct DiskRows: Sendable {
        var rows: Range<Int>
        var fileOffset: Int
    }

    enum RowLocation {
        /// Readable by the GPU there.
        case mapped(UInt64)
        /// In CPU memory that the GPU cannot read.
        case host(UnsafeRawPointer)
        /// In the offload file.
        case disk(offset: Int)
    }

    func location(ofRow row: Int) -> RowLocation {
        if resident.contains(row) {
            return .mapped(residentAddress + UInt64((row - resident.lowerBound) * rowByteCount))
        }
        if host.contains(row) {
            let offset = (row - host.lowerBound) * rowByteCount
            return hostAddress != 0 ? .mapped(hostAddress + UInt64(offset)) : .host(hostBase! + offset)
        }
        let run = disk.first { $0.rows.contains(row) }!
        return .disk(offset: run.fileOffset + (row - run.rows.lowerBound) * rowByteCount)
    }
}
