import TensorCore

/// Makes the tiles of one dummy matrix (docs/quantization.md).
///
/// Codes are random bits, so weights are uniform, with the standard deviation of fp16 elements. Tiles are not made from
/// these, as that takes 2.4 ns a weight, 1.9 of them for rounding; this takes 0.07, 8 GB/s (4 bits, a thread of an AVX-512
/// machine of 2026).
struct DummyTiles {
    private let random: DummyBits
    private let bits: Int
    /// Each scale that an output's group may have, and its minimum in the upper half.
    private let ranges: InlineArray<256, UInt32>

    /// What `DummyGenerator` makes of its 0.02.
    private static let standardDeviation = 0.0198

    init(name: String, seed: UInt64, _ quantization: Quantization) {
        random = DummyBits(name: name, seed: seed)
        bits = quantization.bits
        let most = Double(quantization.mostCode)
        let ofCodes = (most * (most + 2) / 12).squareRoot()
        ranges = InlineArray { choice in
            // Up to 6 % more or less, and the middle up to a quarter of a step beside 0: no code is a weight of 0.
            let scale = Self.standardDeviation / ofCodes * (1 + (Double(choice & 15) - 7.5) / 128)
            let minimum = -scale * (most / 2 + (Double(choice >> 4) - 7.5) / 32)
            return UInt32(Float16(scale).bitPattern) | UInt32(Float16(minimum).bitPattern) << 16
        }
    }

    /// Counters of a tile: its words of codes, 128 at most, and behind them those of its scales.
    private static let countersPerTile = 256
    private static let firstOfScales = 128

    /// Makes the tiles of some units; a tile depends on its place in the whole matrix.
    func fill(_ destination: UnsafeMutableRawPointer, _ block: TileBlock) {
        let layout = block.layout
        withUnsafePointer(to: ranges) { ranges in
            let ranges = UnsafeRawPointer(ranges).assumingMemoryBound(to: UInt32.self)
            var output = destination
            for unit in block.units {
                for index in 0..<(layout.order == .byOutputs ? layout.groupCount : layout.blockCount) {
                    let (outputs, group) = layout.order == .byOutputs ? (unit, index) : (index, unit)
                    let wordCount = layout.inputs(ofGroup: group).count * bits / 4
                    fill(
                        output, wordCount: wordCount,
                        from: (outputs * layout.groupCount + group) * Self.countersPerTile, ranges)
                    output += layout.quantization.tileByteCount(inputs: layout.inputs(ofGroup: group).count)
                }
            }
        }
    }

    /// Makes a tile from its first counter on.
    @inline(__always)
    private func fill(
        _ tile: UnsafeMutableRawPointer, wordCount: Int, from counter: Int, _ ranges: UnsafePointer<UInt32>
    ) {
        let codes = tile.assumingMemoryBound(to: UInt64.self)
        for word in 0..<wordCount { codes[word] = random[counter + word] }
        let scales = UnsafeMutableRawPointer(codes + wordCount).assumingMemoryBound(to: UInt16.self)
        for half in 0..<2 {
            let choices = random[counter + Self.firstOfScales + half]
            for index in 0..<8 {
                let range = ranges[Int(truncatingIfNeeded: choices >> (8 * UInt64(index))) & 255]
                scales[8 * half + index] = UInt16(truncatingIfNeeded: range)
                scales[Quantization.tileOutputs + 8 * half + index] = UInt16(range >> 16)
            }
        }
    }
}
