import CPUKernels

/// Makes the elements of one dummy tensor.
///
/// One random number of 64 bits gives four elements. Of an element's 16 bits, the sign and the 10 bits of the
/// mantissa are taken as they are, and the other 5 choose an exponent from a table: half of the entries are the
/// topmost exponent, a quarter the next one and so on, which is a uniform distribution. Without any conversion
/// from float, a thread makes 1.9 to 2.5 GB/s, and transposed 1.1 to 1.5 (an AVX2 machine of 2026).
struct DummyGenerator {
    private let random: DummyBits
    /// What is set in an element for each value of its bits 10 ... 14.
    private let bases: InlineArray<32, UInt16>
    /// The random bits that are kept.
    private let mask: UInt16

    init(name: String, seed: UInt64) {
        random = DummyBits(name: name, seed: seed)
        if name.hasSuffix("layer_norm.weight") {
            // 0x3C00 is 1. An odd distance never hits it.
            bases = InlineArray { UInt16(0x3C00 + (2 * $0 - 31) * 3) }
            mask = 0
        } else {
            let topExponent: UInt16 = name.hasSuffix(".bias") ? 7 : 9
            bases = InlineArray { (topExponent &- Self.exponentDrop($0)) << 10 }
            mask = 0x83FF
        }
    }

    /// How far below the topmost exponent, 2^-6 for weights, each of 32 equally likely choices is.
    ///
    /// 16, 8, 4, 2 and 2 of them are uniform with a standard deviation of 0.018; one of the 8 is put above
    /// the others, which makes it 0.02.
    private static func exponentDrop(_ choice: Int) -> UInt16 {
        switch choice {
        case 0: UInt16.max  // -1: one above
        case 1...16: 0
        case 17...23: 1
        case 24...27: 2
        case 28...29: 3
        default: 4
        }
    }
}

extension DummyGenerator {
    /// Makes `count` elements from index `start` of the flat tensor on.
    func fill(_ destination: UnsafeMutablePointer<UInt16>, from start: Int, count: Int) {
        withUnsafePointer(to: bases) { bases in
            let table = UnsafeRawPointer(bases).assumingMemoryBound(to: UInt16.self)
            let end = start + count
            var group = start >> 2
            var output = destination
            // The group that the range begins in the middle of.
            if start & 3 != 0 {
                let partial = elements(group, table)
                for lane in start & 3..<min(4, end - group << 2) {
                    output.pointee = UInt16(truncatingIfNeeded: partial >> (16 * lane))
                    output += 1
                }
                group += 1
            }
            let wholeEnd = end >> 2
            while group < wholeEnd {
                UnsafeMutableRawPointer(output).storeBytes(of: elements(group, table), as: UInt64.self)
                output += 4
                group += 1
            }
            if group == wholeEnd {
                let partial = elements(group, table)
                for lane in 0..<end & 3 { output[lane] = UInt16(truncatingIfNeeded: partial >> (16 * lane)) }
            }
        }
    }

    /// Makes a block and writes it transposed, tile by tile through the kernel that transposes files' blocks.
    func fillTransposed(
        _ block: TensorBlock, columnCount: Int, destination: UnsafeMutablePointer<UInt16>, stride: Int,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) {
        let tileRows = 32
        let tileColumns = 128
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: tileRows * tileColumns) { scratch in
            let tile = scratch.baseAddress!
            // Rows innermost, so that the lines of a column are written one after another.
            for column in Swift.stride(
                from: block.columns.lowerBound, to: block.columns.upperBound, by: tileColumns)
            {
                let columns = min(tileColumns, block.columns.upperBound - column)
                for row in Swift.stride(from: block.rows.lowerBound, to: block.rows.upperBound, by: tileRows)
                {
                    let rows = min(tileRows, block.rows.upperBound - row)
                    for index in 0..<rows {
                        fill(
                            tile + index * tileColumns, from: (row + index) * columnCount + column,
                            count: columns)
                    }
                    let offset = (column - block.columns.lowerBound) * stride + row - block.rows.lowerBound
                    var conversion = tandem_convert(
                        source: tile, source_type: TANDEM_FLOAT16, source_stride: tileColumns,
                        destination: destination + offset, destination_stride: stride, rows: rows,
                        columns: columns, transposed: 1)
                    _ = kernels.pointee.convert(&conversion)
                }
            }
        }
    }

    /// The four elements of a group, the first in the lowest bits.
    @inline(__always)
    private func elements(_ group: Int, _ bases: UnsafePointer<UInt16>) -> UInt64 {
        let random = random[group]
        let kept = UInt64(mask) &* 0x0001_0001_0001_0001
        var bits = random & kept
        for lane in 0..<4 {
            let choice = Int(truncatingIfNeeded: random >> (16 * UInt64(lane) + 10)) & 31
            bits |= UInt64(bases[choice]) << (16 * UInt64(lane))
        }
        return bits
    }
}
