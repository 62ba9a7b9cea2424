import Glibc

/// Host memory of exactly the size asked for, on huge pages where the system has them.
///
/// The pages are not there until they are first touched: let the threads that will compute on a range touch it
/// first (`WorkerPool.firstTouch`), so that it lies near them and the kernel clears it in parallel.
public struct HostBuffer: ~Copyable, @unchecked Sendable {  // owns its mapping alone
    public let baseAddress: UnsafeMutableRawPointer
    public let byteCount: Int
    private let mappingByteCount: Int

    private static let hugePageByteCount = 2 << 20
    private static let pageByteCount = 4096

    public init(byteCount: Int) throws(HostMemoryError) {
        precondition(byteCount >= 0, "HostBuffer: \(byteCount) bytes")
        let size = max(1, (byteCount + Self.pageByteCount - 1) / Self.pageByteCount) * Self.pageByteCount
        // Huge pages begin at a multiple of their size: reserve one more, begin there, give back the rest.
        let alignment = size >= Self.hugePageByteCount ? Self.hugePageByteCount : Self.pageByteCount
        let reserved = size + alignment
        guard
            let reservation = mmap(nil, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            reservation != MAP_FAILED
        else { throw HostMemoryError(byteCount: byteCount, status: errno) }
        let start = reservation.alignedUp(toMultipleOf: alignment)
        let before = start - reservation
        if before > 0 { munmap(reservation, before) }
        let after = reserved - before - size
        if after > 0 { munmap(start + size, after) }
        if size >= Self.hugePageByteCount { madvise(start, size, MADV_HUGEPAGE) }
        mappingByteCount = size
        baseAddress = start
        self.byteCount = byteCount
    }

    deinit {
        munmap(baseAddress, mappingByteCount)
    }

    /// The element at `byteOffset` and those behind it.
    public func pointer<Element: BitwiseCopyable>(
        at byteOffset: Int = 0, as type: Element.Type = Element.self
    )
        -> UnsafeMutablePointer<Element>
    {
        precondition(byteOffset >= 0 && byteOffset <= byteCount, "HostBuffer: \(byteOffset) of \(byteCount)")
        return (baseAddress + byteOffset).assumingMemoryBound(to: type)
    }
}

/// The system refused to map memory.
public struct HostMemoryError: Error, Sendable, CustomStringConvertible {
    public let byteCount: Int
    public let status: Int32

    public var description: String {
        "the system refused \(byteCount) bytes of memory: \(String(cString: strerror(status)))"
    }
}
