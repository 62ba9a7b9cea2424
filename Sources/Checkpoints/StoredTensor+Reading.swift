import CPUKernels
import TensorCore

extension StoredTensor {
    /// The bytes of a file that one step of a read has in memory. Large enough that a step's system calls do not
    /// show, small enough that loading adds next to nothing to the resident memory.
    private static let bandByteCount = 1 << 20

    func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        let columnCount = specification.checkedColumnCount(block)
        if block.rows.isEmpty || block.columns.isEmpty { return }
        precondition(stride >= (transposed ? block.rows : block.columns).count, "stride \(stride)")
        let elementByteCount = specification.scalarType.byteCount
        let rowByteCount = columnCount * elementByteCount
        let isDense = block.columns.count * 2 > columnCount
        let bandRowCount = max(1, Self.bandByteCount / rowByteCount)

        func band(from row: Int) -> (rows: Range<Int>, bytes: Range<Int>) {
            let rows = row..<min(row + bandRowCount, block.rows.upperBound)
            let first =
                byteOffset + rows.lowerBound * rowByteCount + block.columns.lowerBound * elementByteCount
            return (
                rows, first..<first + (rows.count - 1) * rowByteCount + block.columns.count * elementByteCount
            )
        }

        var row = block.rows.lowerBound
        while row < block.rows.upperBound {
            let (rows, bytes) = band(from: row)
            if isDense, rows.upperBound < block.rows.upperBound {
                file.willNeed(band(from: rows.upperBound).bytes)
            }
            let done = row - block.rows.lowerBound
            var overflowOffset: Int?
            try file.withBytes(bytes, isDense: isDense, tensor: specification.name) { source in
                var conversion = tandem_convert(
                    source: source, source_type: specification.scalarType.kernelType,
                    source_stride: columnCount,
                    destination: destination + (transposed ? done : done * stride),
                    destination_stride: stride, rows: rows.count, columns: block.columns.count,
                    transposed: transposed ? 1 : 0)
                if kernels.pointee.convert(&conversion) > 0 {
                    overflowOffset =
                        bytes.lowerBound
                        + firstOverflow(
                            source, rows: rows.count, columns: block.columns.count, rowByteCount: rowByteCount
                        )
                }
            }
            if let overflowOffset {
                throw CheckpointError(
                    .overflow, file: file.path, tensor: specification.name, byteOffset: overflowOffset,
                    "The value here is stored as \(specification.scalarType) and too large for fp16, in "
                        + "which the weights are kept. Use the checkpoint that was published in fp16.")
            }
            row = rows.upperBound
        }
    }

    func readVector(
        _ elements: Range<Int>, into destination: UnsafeMutablePointer<Float>
    ) throws(CheckpointError) {
        specification.checkVector(elements)
        let size = specification.scalarType.byteCount
        let bytes = byteOffset + elements.lowerBound * size..<byteOffset + elements.upperBound * size
        try file.withBytes(bytes, isDense: true, tensor: specification.name) { source in
            for index in 0..<elements.count { destination[index] = value(source + index * size) }
        }
    }

    /// One stored element, at any alignment.
    private func value(_ source: UnsafeRawPointer) -> Float {
        switch specification.scalarType {
        case .float16:
            Float(Float16(bitPattern: source.loadUnaligned(as: UInt16.self)))
        case .bfloat16:
            Float(bitPattern: UInt32(source.loadUnaligned(as: UInt16.self)) << 16)
        case .float32:
            source.loadUnaligned(as: Float.self)
        case .uint8:
            preconditionFailure("\(specification.name) is no tensor of numbers")
        }
    }

    /// The byte offset, from `source`, of the first finite value that fp16 rounds to infinity.
    private func firstOverflow(
        _ source: UnsafeRawPointer, rows: Int, columns: Int, rowByteCount: Int
    ) -> Int {
        let size = specification.scalarType.byteCount
        for row in 0..<rows {
            for column in 0..<columns {
                let value = value(source + row * rowByteCount + column * size)
                if value.isFinite, Float16(value).isInfinite { return row * rowByteCount + column * size }
            }
        }
        return 0
    }
}

extension ScalarType {
    fileprivate var kernelType: tandem_scalar_type {
        switch self {
        case .float16: TANDEM_FLOAT16
        case .bfloat16: TANDEM_BFLOAT16
        case .float32: TANDEM_FLOAT32
        case .uint8: preconditionFailure("bytes are no numbers")
        }
    }
}
