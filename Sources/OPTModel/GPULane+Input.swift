import CUDA
import CUDAKernelImage
import Glibc

/// What the GPU is told of a step.
extension GPULane {
    /// Writes what the GPU must know of the batch.
    func write(_ batch: StepBatch, _ cache: GPUKVCache, rowCapacity: Int) throws -> StepBlock.Layout {
        let layout = StepBlock.Layout(rowCapacity: rowCapacity, hasDiskCache: cache.disk != nil)
        block.pointer(StepBlock.Layout.stepNumber, as: UInt32.self).pointee = stepNumber
        block.pointer(StepBlock.Layout.boundary, as: UInt32.self).pointee = UInt32(boundary)
        let rows = block.pointer(layout.rows, as: tandem_gpu_row.self)
        let diskRows = block.pointer(layout.diskRows, as: tandem_gpu_row.self)
        let choices = block.pointer(layout.choices, as: tandem_gpu_choice.self)
        let segments = block.pointer(layout.segments, as: tandem_gpu_segment.self)
        let logitsRows = block.pointer(layout.logitsRows, as: UInt32.self)
        for index in 0..<batch.segmentCount {
            let segment = batch.segments[index]
            segments[index] = tandem_gpu_segment(
                first_row: UInt32(segment.firstRow), row_count: UInt32(segment.rowCount))
            for row in segment.firstRow..<segment.firstRow + segment.rowCount {
                let position = Int(batch.positions[row])
                rows[row] = tandem_gpu_row(
                    cache: cache.address(of: segment.sequence),
                    host_cache: cache.hostAddress(of: segment.sequence),
                    token_row: try address(ofToken: Int(batch.tokens[row]), place: 2 * row),
                    position_row: try address(
                        weights.positionTable, row: position + OPTConfiguration.positionOffset,
                        place: 2 * row + 1),
                    capacity: UInt32(cache.lineCapacities[segment.sequence]), position: Int32(position))
                if let disk = cache.disk {
                    diskRows[row] = rows[row]
                    diskRows[row].host_cache = disk.address(of: segment.sequence)
                    diskRows[row].capacity = UInt32(disk.layout.capacities[segment.sequence])
                }
            }
            for row in segment.logitsRow..<segment.logitsRow + segment.logitsCount {
                logitsRows[row] = UInt32(batch.logitsRows[row])
                choices[row] = tandem_gpu_choice(batch.choice(segment: index))
            }
        }
        return layout
    }

    /// Where the GPU finds a token's row; where another process has it, zeros.
    private func address(ofToken token: Int, place: Int) throws -> UInt64 {
        let row = token - (group?.shard.tokens.lowerBound ?? 0)
        guard 0..<configuration.vocabularySize ~= row else { return scratch.zeroRow }
        return try address(weights.tokenTable, row: row, place: place)
    }

    /// Where the GPU finds a row of a table. A row that it cannot read where it lies is put into memory that it can.
    private func address(_ table: PlacedTable, row: Int, place: Int) throws -> UInt64 {
        let memory = tableRows.baseAddress
        let offset = place * tableRowStride
        switch table.location(ofRow: row) {
        case .mapped(let address): return address
        case .host(let pointer):
            memcpy(memory + offset, pointer, table.rowByteCount)
            return tableRows.deviceAddress + UInt64(offset)
        case .disk(let fileOffset):
            let first = fileOffset / OffloadFile.alignment * OffloadFile.alignment
            let end = OffloadFile.aligned(fileOffset + table.rowByteCount)
            let aligned = divideUp(offset, OffloadFile.alignment) * OffloadFile.alignment
            if let error = weights.file!.read(
                into: UnsafeMutableRawBufferPointer(start: memory + aligned, count: end - first), at: first)
            {
                throw error
            }
            return tableRows.deviceAddress + UInt64(aligned + fileOffset - first)
        }
    }
}

/// The shape of a step, which decides how it is launched.
struct Pass {
    let rowCount: Int
    let segmentCount: Int
    let logitsCount: Int
    let longestSegment: Int
    let partCount: Int

    init(_ batch: StepBatch, _ cache: GPUKVCache) {
        rowCount = batch.rowCount
        segmentCount = batch.segmentCount
        logitsCount = batch.logitsCount
        var longest = 0
        for index in 0..<batch.segmentCount { longest = max(longest, batch.segments[index].rowCount) }
        longestSegment = longest
        partCount = GPUKVCache.partCount(positions: cache.longestCapacity)
    }

    /// The rows whose logits are wanted, as a step of their own.
    init(logitsOf pass: Pass) {
        rowCount = pass.logitsCount
        segmentCount = pass.logitsCount
        logitsCount = pass.logitsCount
        longestSegment = 1
        partCount = pass.partCount
    }

    /// One row of each sequence, all of whose logits are wanted.
    var isDecode: Bool { longestSegment == 1 && logitsCount == rowCount && rowCount <= Self.mostDecodeRows }
    static let mostDecodeRows = 256
    var hasFewRows: Bool { rowCount <= Int(TANDEM_GPU_FEW_ROWS) }
}

extension tandem_gpu_choice {
    /// Greedy where the host chooses: its token is not used then.
    init(_ choice: TokenChoice?) {
        self.init(
            temperature: choice?.temperature ?? 0, top_p: choice?.topP ?? 1, top_k: UInt32(choice?.topK ?? 0),
            uniform: choice?.uniform ?? 0, forbidden: choice?.forbidden ?? -1, reserved: 0)
    }
}

extension PlacedTable {
    /// Whether the GPU can read every row where it lies.
    var isMapped: Bool { disk.isEmpty && (host.isEmpty || hostAddress != 0) }
}
