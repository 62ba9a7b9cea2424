import Checkpoints
import HostRuntime
import TensorCore

/// Where a tensor of the checkpoint, or a part of it, lives in a shard's memory, and in which layout.
struct TensorSlot: Sendable {
    enum Layout: Sendable {
        /// fp16 rows as they are stored.
        case rows
        /// fp16, the stored matrix turned over: a row of the slot is a column of the tensor.
        case transposed
        /// An fp32 vector.
        case vector
        /// Zeros in place of a vector, in fp32.
        case zeros
        /// Tiles of a matrix of this form.
        case quantized(MatrixForm)
    }

    var specification: TensorSpecification
    var layout: Layout
    /// The part of the stored matrix; a vector's elements are the columns of its one row.
    var rows: Range<Int>
    var columns: Range<Int>
    var byteOffset: Int

    var byteCount: Int {
        switch layout {
        case .rows, .transposed: rows.count * columns.count * MemoryLayout<UInt16>.size
        case .vector, .zeros: columns.count * MemoryLayout<Float>.size
        case .quantized(let form): form.byteCount(form.order == .byOutputs ? rows.count : columns.count)
        }
    }

    /// The units of the whole matrix's tiles that the slot holds.
    func units(of layout: QuantizedLayout) -> Range<Int> {
        let items = layout.order == .byOutputs ? rows : columns
        return layout.unit(from: items.lowerBound)..<layout.unit(from: items.upperBound)
    }
}

/// Lays tensors out one behind the other, each on a cache line of its own.
struct SlotLayout: Sendable {
    private(set) var slots: [TensorSlot] = []
    private(set) var byteCount = 0

    private static let alignment = 64

    /// Reserves room for `rows` of a stored [R, C] matrix, or all of them, and returns its offset in bytes.
    mutating func matrix(_ specification: TensorSpecification, rows: Range<Int>? = nil) -> Int {
        let shape = specification.shape.dimensions
        return add(
            specification, .rows, rows: rows ?? 0..<shape[0], columns: 0..<shape[1])
    }

    /// Reserves room for `columns` of a stored [R, C] matrix, turned over to [columns, R].
    private mutating func transposedMatrix(_ specification: TensorSpecification, columns: Range<Int>) -> Int {
        add(specification, .transposed, rows: 0..<specification.shape.dimensions[0], columns: columns)
    }

    /// Reserves room for rows, or columns, of a stored [R, C] matrix of a layer in its form, and returns its offset in bytes.
    mutating func matrix(_ specification: TensorSpecification, _ form: MatrixForm, _ range: Range<Int>) -> Int
    {
        if form.quantization == nil {
            return form.order == .byOutputs
                ? matrix(specification, rows: range) : transposedMatrix(specification, columns: range)
        }
        let shape = specification.shape.dimensions
        return form.order == .byOutputs
            ? add(specification, .quantized(form), rows: range, columns: 0..<shape[1])
            : add(specification, .quantized(form), rows: 0..<shape[0], columns: range)
    }

    /// Reserves room for a vector in fp32; nil where the model has none.
    mutating func vector(_ specification: TensorSpecification?, elements: Range<Int>? = nil) -> Int? {
        guard let specification else { return nil }
        return add(
            specification, .vector, rows: 0..<1,
            columns: elements ?? 0..<specification.shape.dimensions[0])
    }

    /// Reserves room for as many zeros as a vector has elements, in fp32; nil where the model has no such vector.
    mutating func zeros(inPlaceOf specification: TensorSpecification?, elements: Range<Int>) -> Int? {
        guard let specification else { return nil }
        return add(specification, .zeros, rows: 0..<1, columns: elements)
    }

    private mutating func add(
        _ specification: TensorSpecification, _ layout: TensorSlot.Layout, rows: Range<Int>,
        columns: Range<Int>
    ) -> Int {
        let slot = TensorSlot(
            specification: specification, layout: layout, rows: rows, columns: columns, byteOffset: byteCount)
        slots.append(slot)
        byteCount += (slot.byteCount + Self.alignment - 1) / Self.alignment * Self.alignment
        return slot.byteOffset
    }

    /// Lets the next tensor follow the last without a gap, so that several form one matrix.
    mutating func joinNext() {
        guard let last = slots.last else { return }
        byteCount = last.byteOffset + last.byteCount
    }
}

extension HostBuffer {
    /// An fp16 matrix that a layout has put at an offset.
    func matrix(at byteOffset: Int) -> UnsafePointer<UInt16> {
        UnsafePointer(pointer(at: byteOffset, as: UInt16.self))
    }

    /// The same; nil where the layout has none.
    func matrix(at byteOffset: Int?) -> UnsafePointer<UInt16>? {
        byteOffset.map { UnsafePointer(pointer(at: $0, as: UInt16.self)) }
    }

    /// An fp32 vector that a layout has put at an offset; nil where it has none.
    func vector(at byteOffset: Int?) -> UnsafePointer<Float>? {
        byteOffset.map { UnsafePointer(pointer(at: $0, as: Float.self)) }
    }
}
