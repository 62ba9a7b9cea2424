import Placement

/// Where the keys and values of the heads on disk lie, in the file and in the slots through which attention reaches them.
///
/// The file is [layer][sequence], the slots' memory [sequence][slot], both of [K, V][head][capacity][head dimension] in
/// fp16. For the kernels a sequence's slots are therefore a cache whose layers are the slots. Every line, the positions
/// of one head's keys or values, begins at a block of the disk: blocks that new positions change hold nothing of
/// another line.
struct DiskKVLayout: Sendable {
    let layerCount: Int
    /// Layer l goes through slot l modulo this, in every step, so that the addresses in a graph stay as they are.
    let slotCount: Int
    /// The positions that a line of each sequence has room for: a whole number of blocks.
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
        // The fewest positions that fill whole blocks.
        var unit = OffloadFile.alignment
        while unit % 2 == 0 && unit / 2 * positionByteCount % OffloadFile.alignment == 0 { unit /= 2 }
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
        let lower = positions.lowerBound * positionByteCount / OffloadFile.alignment * OffloadFile.alignment
        let upper = OffloadFile.aligned(positions.upperBound * positionByteCount)
        let lineByteCount = capacities[sequence] * positionByteCount
        var ranges: [Range<Int>] = []
        for line in 0..<lineCount {
            let range = line * lineByteCount + lower..<line * lineByteCount + upper
            if let last = ranges.last, range.lowerBound - last.upperBound <= gap {
                ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
            } else {
                ranges.append(range)
            }
        }
        return ranges
    }
}
