import Glibc

/// Memory that ends at an inaccessible page, so that a read or write past its end is a fault, and that begins
/// after bytes whose change is noticed. As elements end at the page, odd counts give unaligned beginnings.
final class FencedBuffer<Element: BitwiseCopyable> {
    let pointer: UnsafeMutablePointer<Element>
    let count: Int
    private let base: UnsafeMutableRawPointer
    private let mappedByteCount: Int
    private let frontByteCount: Int
    private static var poison: UInt8 { 0xFF }  // every float and half made of it is a NaN

    init(count: Int) {
        let page = 4096
        let byteCount = count * MemoryLayout<Element>.stride
        let usable = (byteCount + 64 + page - 1) / page * page
        self.count = count
        mappedByteCount = usable + page
        base = mmap(nil, mappedByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        precondition(base != MAP_FAILED && mprotect(base + usable, page, PROT_NONE) == 0)
        frontByteCount = usable - byteCount
        memset(base, Int32(Self.poison), usable)
        pointer = (base + frontByteCount).assumingMemoryBound(to: Element.self)
    }

    convenience init(_ elements: [Element]) {
        self.init(count: elements.count)
        for (index, element) in elements.enumerated() { pointer[index] = element }
    }

    deinit { munmap(base, mappedByteCount) }

    var elements: [Element] { Array(UnsafeBufferPointer(start: pointer, count: count)) }

    /// Whether the bytes before the elements are still as they were made.
    var frontIsIntact: Bool {
        UnsafeRawBufferPointer(start: base, count: frontByteCount).allSatisfy { $0 == Self.poison }
    }
}

extension FencedBuffer where Element == Float {
    /// A matrix laid out with a stride; the gaps between its rows are NaN.
    convenience init(_ matrix: Matrix, stride: Int) {
        self.init(count: Matrix.elementCount(matrix.rows, matrix.columns, stride: stride))
        for row in 0..<matrix.rows {
            for column in 0..<matrix.columns { pointer[row * stride + column] = matrix[row, column] }
        }
    }

    /// An output: all NaN until it is written.
    convenience init(rows: Int, columns: Int, stride: Int) {
        self.init(count: Matrix.elementCount(rows, columns, stride: stride))
    }

    func gapsAreIntact(rows: Int, columns: Int, stride: Int) -> Bool {
        for row in 0..<max(rows - 1, 0) {
            for column in columns..<stride where !pointer[row * stride + column].isNaN { return false }
        }
        return frontIsIntact
    }
}
