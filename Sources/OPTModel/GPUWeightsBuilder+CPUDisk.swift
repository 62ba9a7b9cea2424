import Placement
import TensorCore

/// What lies on disk and is computed by the CPU, block by block in the order of a pass.
extension GPUWeightsBuilder {
    /// Cuts what the CPU computes of a layer into pieces for the fetcher's slots, by where they lie.
    func cutComputed(_ layer: LayerPlacement, unit: Int, itemByteCount: Int) -> [(Range<Int>, Tier)] {
        [Tier.cpu, .disk].flatMap {
            cut(layer.cpuComputed(on: $0), unit: unit, itemByteCount: itemByteCount, $0)
        }
    }

    /// The runs in which the token table's rows lie on disk, each read by one side alone.
    var tokenRowsOnDisk: [Range<Int>] {
        let table = placement.tokenTable
        return [table.streamed(from: .disk), table.cpuComputed(on: .disk)].flatMap {
            cut($0, unit: 64, itemByteCount: placement.shape.bytesPerTokenRow, .disk).map(\.0)
        }
    }

    /// Adds a block of heads; what is to be loaded for it.
    func addDiskHeads(_ heads: Range<Int>, layer: Int) -> StagedLoader<Source>.Part {
        var layout = SlotLayout()
        _ = layout.qkv(tensors, layer: layer, heads: heads)
        layout.joinNext()
        _ = layout.output(tensors, layer: layer, rows: tensors.rows(of: heads))
        let biasOffset = layout.qkvBias(tensors, layer: layer, heads: heads)
        return add(layout, heads, biasOffset, to: \.attention, layer: layer)
    }

    /// Adds a block of neurons; what is to be loaded for it.
    func addDiskNeurons(_ neurons: Range<Int>, layer: Int) -> StagedLoader<Source>.Part {
        var layout = SlotLayout()
        _ = layout.fc1(tensors, layer: layer, neurons: neurons)
        layout.joinNext()
        _ = layout.fc2(tensors, layer: layer, neurons: neurons)
        let biasOffset = layout.vector(tensors.fc1Bias(layer: layer), elements: neurons)
        return add(layout, neurons, biasOffset, to: \.mlp, layer: layer)
    }

    /// Adds rows of the token table, which are in the file already.
    func addDiskRows(_ rows: Range<Int>, at fileOffset: Int, byteCount: Int) {
        cpuDiskContents.logits.append(CPUPiece(range: rows, source: addBlock(fileOffset, byteCount, nil)))
    }

    private func add(
        _ layout: SlotLayout, _ range: Range<Int>, _ biasOffset: Int?,
        to pieces: WritableKeyPath<CPUDiskWeights.Contents, [[CPUPiece]]>, layer: Int
    ) -> StagedLoader<Source>.Part {
        let offset = reserveFile(layout.byteCount)
        let piece = CPUPiece(range: range, source: addBlock(offset, layout.byteCount, biasOffset))
        while cpuDiskContents[keyPath: pieces].count <= layer {
            cpuDiskContents[keyPath: pieces].append([])
        }
        cpuDiskContents[keyPath: pieces][layer].append(piece)
        return .init(slots: layout.slots, byteCount: layout.byteCount, destination: .file(offset: offset))
    }

    private func addBlock(_ fileOffset: Int, _ byteCount: Int, _ biasOffset: Int?) -> CPUPiece.Source {
        cpuDiskContents.blocks.append(
            DiskReader.Block(fileOffset: fileOffset, byteCount: OffloadFile.aligned(byteCount)))
        return .disk(block: cpuDiskContents.blocks.count - 1, biasOffset: biasOffset)
    }
}
