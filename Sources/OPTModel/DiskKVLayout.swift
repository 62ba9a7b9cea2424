import Placement

/// Where the keys and values of the heads on disk lie, in the file and in the slots through which attention reaches them.
///
/// The file is [layer][sequence], the slots' memory [sequence][slot], both of [K, V][head][capacity][head dimension]. For the
/// kernels a sequence's slots are therefore a cache whose layers are the slots. A sequence begins at a block of the disk. So
/// does every line, the positions of one head's keys or values, in fp16. In 4 bits, of which it takes up to 1024 positions to
/// fill whole blocks, a line may share its first and last block with those beside it: what the blocks hold of them is in the
/// slot, too, as all lines of a sequence are read and written together.
struct DiskKVLayout: Sendable {
    let layerCount: Int
    /// Layer l goes through slot l modulo this, in every step, so that the addresses in a graph stay as they are.
    let slotCount: Int
    /// The positions that a line of each sequence has room for.
    let capacities: [Int]

    /// The lines of a sequence in one layer.
    private let lineCount: Int
    private let positionByteCount: Int
    /// Where a sequence begins within a layer, and behind the last one the layer's end.
    private let firstBytes: [Int]

    /// All numbers of layers that were published are multiples of it: then every slot is given back as many layers
    /// before it is needed again, across steps too.
    static let defaultSlotCount = 4

    /// - Parameters:
    ///   - headCount: the heads of a layer whose cache is on disk.
    ///   - capacities: the positions that each sequence shall have room for.
    ///   - slotCount: at most; more than there are layers are of no use.
    init(_ shape: ModelShape, headCount: Int, capacities: [Int], slotCount: Int = defaultSlotCount) {
        precondition(slotCount > 0, "DiskKVLayout: \(slotCount) slots")
        layerCount = shape.layerCount
        self.slotCount = min(slotCount, shape.layerCount)
        lineCount = 2 * headCount
        positionByteCount = shape.cacheBytesPerHead / (2 * shape.layerCount)
        // The fewest positions of a line, or of all lines, that fill whole blocks. Kernels want lines at 16 bytes.
        let bytes = positionByteCount * (shape.hasQuantizedCache ? lineCount : 1)
        let lineBytes = positionByteCount
        func fits(_ unit: Int) -> Bool {
            unit * bytes % OffloadFile.alignment == 0 && unit * lineBytes % 16 == 0
        }
        var unit = OffloadFile.alignment
        while unit % 2 == 0 && fits(unit / 2) { unit /= 2 }
        self.capacities = capacities.map { divideUp($0, unit) * unit }
        var firstBytes = [0]
        for capacity in self.capacities {
            firstBytes.append(firstBytes.last! + lineCount * capacity * positionByteCount)
        }
        self.firstBytes = firstBytes
    }

    /// One layer of all sequences.
    private var layerByteCount: Int { firstBytes.last! }
    var fileByteCount: Int { layerCount * layerByteCount }
    var slotsByteCount: Int { slotCount * layerByteCount }

    func slot(ofLayer layer: Int) -> Int { layer % slotCount }

    func fileOffset(layer: Int, sequence: Int) -> Int { layer * layerByteCount + firstBytes[sequence] }

    /// Where a sequence's first slot begins, in bytes from that of the first sequence.
    func slotsOffset(sequence: Int) -> Int { slotCount * firstBytes[sequence] }

    func slotOffset(slot: Int, sequence: Int) -> Int {
        slotsOffset(sequence: sequence) + slot * (firstBytes[sequence + 1] - firstBytes[sequence])
    }

    /// The blocks that hold `positions` in any of a sequence's lines, as ranges of bytes from the sequence's begin in a
    /// layer or slot; ascending, apart from each other.
    ///
    /// - Parameter gap: ranges with no more bytes between them become one.
    func blocks(_ positions: Range<Int>, sequence: Int, joiningGapsOf gap: Int = 0) -> [Range<Int>] {
        precondition(
            positions.upperBound <= capacities[sequence],
            "DiskKVLayout: \(positions) of \(capacities[sequence]) positions")
        if positions.isEmpty { return [] }
        let lineByteCount = capacities[sequence] * positionByteCount
        var ranges: [Range<Int>] = []
        for line in 0..<lineCount {
            let first = line * lineByteCount + positions.lowerBound * positionByteCount
            let end = line * lineByteCount + positions.upperBound * positionByteCount
            let range =
                first / OffloadFile.alignment * OffloadFile.alignment..<OffloadFile.aligned(end)
            if let last = ranges.last, range.lowerBound - last.upperBound <= gap {
                ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
            } else {
                ranges.append(range)
            }
        }
        return ranges
    }
}
