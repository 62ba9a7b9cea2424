import CUDA
import Checkpoints
import HostRuntime
import Placement
import TensorCore

/// The tables at both ends of the model, and the small tensors beside them.
extension GPUWeightsBuilder {
    func loadEnds() throws {
        tokenTable = try loadTable(
            tensors.tokenEmbedding, placement.tokenTable.weights,
            rowByteCount: placement.shape.bytesPerTokenRow,
            pieces: { _ in self.tokenRowsOnDisk })
        positionTable = try loadTable(
            tensors.positionEmbedding, placement.positionTable.weights,
            rowByteCount: placement.shape.bytesPerPositionRow, pieces: { [$0] })

        var layout = SlotLayout()
        let projectInOffset = tensors.projectIn.map { layout.matrix($0) }
        let projectOutOffset = tensors.projectOut.map { layout.matrix($0) }
        let normWeight = layout.vector(tensors.finalLayerNorm(.weight))
        let normBias = layout.vector(tensors.finalLayerNorm(.bias))
        let memory = try DeviceMemory(byteCount: layout.byteCount, context: context)
        deviceBuffers.append(memory)
        func address(_ offset: Int?) -> UInt64 { offset.map { memory.address + UInt64($0) } ?? 0 }
        projectIn = address(projectInOffset)
        projectOut = address(projectOutOffset)
        finalNorm = GPUNorm(weight: address(normWeight), bias: address(normBias))
        try loader.load([
            .init(slots: layout.slots, byteCount: layout.byteCount, destination: .gpu(memory.address))
        ])
    }

    private func loadTable(
        _ specification: TensorSpecification, _ split: RangeSplit, rowByteCount: Int,
        pieces: (Range<Int>) -> [Range<Int>]
    ) throws -> PlacedTable {
        var parts: [StagedLoader<Source>.Part] = []
        var table = PlacedTable(
            rowByteCount: rowByteCount, resident: split.gpu, residentAddress: 0, host: split.cpu,
            hostAddress: 0,
            hostBase: nil, disk: [])
        func slots(_ rows: Range<Int>) -> SlotLayout {
            var layout = SlotLayout()
            _ = layout.matrix(specification, rows: rows)
            return layout
        }
        if !split.gpu.isEmpty {
            let layout = slots(split.gpu)
            let memory = try DeviceMemory(byteCount: layout.byteCount, context: context)
            deviceBuffers.append(memory)
            table.residentAddress = memory.address
            parts.append(
                .init(slots: layout.slots, byteCount: layout.byteCount, destination: .gpu(memory.address)))
        }
        if !split.cpu.isEmpty {
            let layout = slots(split.cpu)
            let memory = try HostMemoryBlock(byteCount: layout.byteCount, pool: pool)
            let pinned = try PinnedMemory(
                memory.base, byteCount: layout.byteCount, owner: memory, isPinned: options.pinsWeights,
                context: context)
            hostMemory.append(pinned)
            table.hostAddress = pinned.deviceAddress
            table.hostBase = UnsafeRawPointer(memory.base)
            parts.append(
                .init(slots: layout.slots, byteCount: layout.byteCount, destination: .memory(memory.base)))
        }
        try loader.load(parts)
        if !split.disk.isEmpty {
            for rows in pieces(split.disk) {
                let layout = slots(rows)
                let offset = reserveFile(layout.byteCount)
                table.disk.append(.init(rows: rows, fileOffset: offset))
                try loader.load([
                    .init(
                        slots: layout.slots, byteCount: layout.byteCount, destination: .file(offset: offset))
                ])
            }
        }
        return table
    }

    func appendLogits() {
        let table = tokenTable!
        if !table.resident.isEmpty {
            logits.append(LogitsPiece(rows: table.resident, table: table.residentAddress, source: .resident))
        }
        func run(_ rows: Range<Int>) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(
                start: table.hostBase! + (rows.lowerBound - table.host.lowerBound) * table.rowByteCount,
                count: rows.count * table.rowByteCount)
        }
        let streamed = placement.tokenTable.streamed(from: .cpu)
        for (rows, _) in cut(streamed, unit: 64, itemByteCount: table.rowByteCount, .cpu) {
            appendLogits(rows, append(.host([run(rows)]), byteCount: run(rows).count))
        }
        let computed = placement.tokenTable.cpuComputed(on: .cpu)
        for (rows, _) in cut(computed, unit: 64, itemByteCount: table.rowByteCount, .cpu) {
            appendFetchedLogits(rows, .host([run(rows)]))
        }
        for run in table.disk {
            let byteCount = run.rows.count * table.rowByteCount
            if placement.tokenTable.cpuComputed.contains(run.rows.lowerBound) {
                addDiskRows(run.rows, at: run.fileOffset, byteCount: byteCount)
                appendFetchedLogits(run.rows, .disk)
                continue
            }
            appendLogits(run.rows, appendFromDisk(at: run.fileOffset, byteCount: byteCount))
        }
    }

    private func appendFetchedLogits(_ rows: Range<Int>, _ source: StreamedBlock.Source) {
        let byteCount = rows.count * placement.shape.bytesPerTokenRow
        let index = fetcher!.add(.init(source: source, byteCount: byteCount, itemCount: rows.count))
        fetchedLogits.append(
            LogitsPiece(rows: rows, table: fetcher!.address(ofBlock: index), source: .fetched(index)))
    }

    private func appendLogits(_ rows: Range<Int>, _ index: Int) {
        logits.append(
            LogitsPiece(
                rows: rows, table: ring!.address(ofSlot: blocks[index].slot), source: .streamed(index)))
    }
}

/// Plain CPU memory with an owner.
final class HostMemoryBlock: Sendable {
    private let buffer: HostBuffer
    var base: UnsafeMutableRawPointer { buffer.baseAddress }

    init(byteCount: Int, pool: WorkerPool) throws(HostMemoryError) {
        buffer = try HostBuffer(byteCount: byteCount)
        pool.firstTouch(base: buffer.baseAddress, byteCount: byteCount)
    }
}
