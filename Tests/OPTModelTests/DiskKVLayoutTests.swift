import Placement
import TensorCore
import Testing

@testable import OPTModel

struct DiskKVLayoutTests {
    private static func shape(layers: Int = 3, headDimension: Int, isQuantized: Bool = false) -> ModelShape {
        var shape = ModelShape(
            layerCount: layers, headCount: 5, headDimension: headDimension, hiddenSize: 5 * headDimension,
            feedForwardSize: 64, vocabularySize: 64)
        shape.hasQuantizedCache = isQuantized
        return shape
    }

    @Test(arguments: [(64, 32), (80, 128), (128, 16), (12, 512), (1, 2048), (4096, 1)])
    func `a line is the fewest whole blocks that hold the positions asked`(headDimension: Int, unit: Int) {
        let asked = [1, unit, unit + 1, 5 * unit]
        let layout = DiskKVLayout(
            Self.shape(headDimension: headDimension), headCount: 2, capacities: asked)
        #expect(layout.capacities == [unit, unit, 2 * unit, 5 * unit])
        #expect(unit * headDimension * 2 % OffloadFile.alignment == 0)
    }

    /// Positions of 36, 48 and 72 bytes.
    @Test(arguments: [(64, 6, 256), (64, 36, 128), (64, 1, 512), (80, 3, 128), (80, 32, 4), (128, 56, 32)])
    func `in 4 bits all lines of a sequence are the fewest whole blocks that hold the positions asked`(
        headDimension: Int, headCount: Int, unit: Int
    ) {
        let layout = DiskKVLayout(
            Self.shape(headDimension: headDimension, isQuantized: true), headCount: headCount,
            capacities: [1, unit, unit + 1])
        #expect(layout.capacities == [unit, unit, 2 * unit])
        let lineByteCount = unit * Quantization.cachePositionByteCount(headDimension: headDimension)
        #expect(2 * headCount * lineByteCount % OffloadFile.alignment == 0)
        #expect(lineByteCount % 16 == 0)
    }

    @Test(arguments: [160, 48])
    func `no two sequences share a block, in the file and in the slots`(positionByteCount: Int) {
        let layout = DiskKVLayout(
            Self.shape(layers: 7, headDimension: 80, isQuantized: positionByteCount == 48), headCount: 3,
            capacities: [100, 200, 1], slotCount: 2)
        var inFile: Set<Int> = []
        var inSlots: Set<Int> = []
        var count = 0
        for sequence in 0..<3 {
            let region = layout.blocks(0..<layout.capacities[sequence], sequence: sequence)
            // All lines of a sequence in one layer, one behind the other.
            #expect(region == [0..<2 * 3 * layout.capacities[sequence] * positionByteCount])
            let blocks = stride(from: 0, to: region[0].upperBound, by: OffloadFile.alignment)
            for layer in 0..<7 {
                inFile.formUnion(blocks.map { layout.fileOffset(layer: layer, sequence: sequence) + $0 })
            }
            for slot in 0..<2 {
                inSlots.formUnion(blocks.map { layout.slotOffset(slot: slot, sequence: sequence) + $0 })
                // The kernels' way to a layer.
                #expect(
                    layout.slotOffset(slot: slot, sequence: sequence)
                        == layout.slotsOffset(sequence: sequence) + slot * region[0].upperBound)
            }
            count += blocks.underestimatedCount
        }
        #expect(inFile.count == 7 * count && inSlots.count == 2 * count)
        #expect(inFile.max()! + OffloadFile.alignment == layout.fileByteCount)
        #expect(inSlots.max()! + OffloadFile.alignment == layout.slotsByteCount)
        #expect((0..<7).map { layout.slot(ofLayer: $0) } == [0, 1, 0, 1, 0, 1, 0])
    }

    @Test func `there are no more slots than layers`() {
        let shape = Self.shape(layers: 2, headDimension: 64)
        #expect(DiskKVLayout(shape, headCount: 1, capacities: [1], slotCount: 5).slotCount == 2)
    }

    /// Against every byte that the kernels touch, by their formula.
    @Test(
        arguments: [(64, false), (80, false), (128, false), (12, false), (64, true), (80, true), (128, true)])
    func `the blocks of positions are those with a byte of theirs, and no other`(
        headDimension: Int, isQuantized: Bool
    ) {
        let heads = 3
        let layout = DiskKVLayout(
            Self.shape(headDimension: headDimension, isQuantized: isQuantized), headCount: heads,
            capacities: [40, 600])
        let positionByteCount =
            isQuantized
            ? Quantization.cachePositionByteCount(headDimension: headDimension) : 2 * headDimension
        for sequence in 0..<2 {
            let capacity = layout.capacities[sequence]
            for positions in [0..<1, 0..<33, 31..<33, 39..<40, 25..<40, 0..<40, capacity - 1..<capacity] {
                var touched: Set<Int> = []
                for line in 0..<2 * heads {
                    for position in positions {
                        let first = (line * capacity + position) * positionByteCount
                        for byte in first..<first + positionByteCount {
                            touched.insert(byte / OffloadFile.alignment)
                        }
                    }
                }
                let ranges = layout.blocks(positions, sequence: sequence)
                #expect(ranges.flatMap { Self.blocks($0) } == touched.sorted())
                for (range, next) in zip(ranges, ranges.dropFirst()) {
                    #expect(range.upperBound < next.lowerBound)
                }
            }
            #expect(layout.blocks(7..<7, sequence: sequence).isEmpty)
        }
    }

    @Test func `ranges with a small gap between them become one, with a larger one not`() {
        // Lines of three blocks of 32 positions.
        let layout = DiskKVLayout(Self.shape(headDimension: 64), headCount: 1, capacities: [96])
        let one = 32 * 128
        #expect(layout.blocks(0..<32, sequence: 0) == [0..<one, 3 * one..<4 * one])
        #expect(layout.blocks(0..<32, sequence: 0, joiningGapsOf: 2 * one - 1).count == 2)
        #expect(layout.blocks(0..<32, sequence: 0, joiningGapsOf: 2 * one) == [0..<4 * one])
        #expect(layout.blocks(32..<96, sequence: 0) == [one..<3 * one, 4 * one..<6 * one])
        #expect(layout.blocks(0..<96, sequence: 0) == [0..<6 * one])
    }

    private static func blocks(_ range: Range<Int>) -> [Int] {
        precondition(
            range.lowerBound % OffloadFile.alignment == 0 && range.upperBound % OffloadFile.alignment == 0)
        return Array(range.lowerBound / OffloadFile.alignment..<range.upperBound / OffloadFile.alignment)
    }
}
