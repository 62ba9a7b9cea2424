import CPUKernels
import Checkpoints
import HostRuntime
import Synchronization
import TensorCore

/// Copies tensors from their source to their slots, in pieces that the threads of a pool take one after another.
///
/// A piece is a band of whole stored rows: files are read in order, whichever way the slot lies.
/// Sendable, because the pieces write disjoint memory.
final class WeightLoader<Source: TensorSource>: WorkerTask, @unchecked Sendable {
    private struct Piece {
        var slot: TensorSlot
        /// Stored rows; of a matrix that is stored as tiles, units of the whole one.
        var range: Range<Int>
        /// The whole matrix's, where it is stored so.
        var tiles: QuantizedLayout?
        /// Where the slot lies.
        var base: UnsafeMutableRawPointer
        var byteCount: Int
    }

    private let source: Source
    private let kernels: UnsafePointer<tandem_cpu_kernels>
    private let progress: @Sendable (Int, Int) -> Void
    private var slots: [(slot: TensorSlot, base: UnsafeMutableRawPointer)] = []
    private var pieces: [Piece] = []
    private var buffers: [(base: UnsafeMutableRawPointer, byteCount: Int)] = []
    private var totalByteCount = 0
    private let nextPiece = Atomic<Int>(0)
    private let doneByteCount = Atomic<Int>(0)
    private let failure = Mutex<CheckpointError?>(nil)

    private static var pieceByteCount: Int { 1 << 20 }

    init(
        source: Source, kernels: UnsafePointer<tandem_cpu_kernels>,
        progress: @escaping @Sendable (Int, Int) -> Void
    ) {
        self.source = source
        self.kernels = kernels
        self.progress = progress
    }

    /// Adds what `slots` say to the work; `buffer` must outlive the loading.
    func add(_ slots: [TensorSlot], to buffer: borrowing HostBuffer) {
        add(slots, to: buffer.baseAddress, byteCount: buffer.byteCount)
    }

    /// Adds what `slots` say to the work; the memory must outlive the loading.
    func add(_ slots: [TensorSlot], to base: UnsafeMutableRawPointer, byteCount: Int) {
        buffers.append((base, byteCount))
        totalByteCount += slots.reduce(0) { $0 + $1.byteCount }
        for slot in slots where slot.byteCount > 0 { self.slots.append((slot, base + slot.byteOffset)) }
    }

    /// Checks every tensor's presence and shape, then reads them all. Nothing is read where a check fails.
    func load(on pool: WorkerPool) throws(CheckpointError) {
        var layouts: [String: QuantizedLayout?] = [:]
        for (slot, base) in slots {
            let name = slot.specification.name
            if layouts[name] == nil { layouts.updateValue(try storedLayout(of: slot), forKey: name) }
            if let layout = layouts[name]! {
                cut(slot, stored: layout, base: base)
            } else {
                cut(slot, base: base)
            }
        }
        for buffer in buffers { pool.firstTouch(base: buffer.base, byteCount: buffer.byteCount) }
        pool.run(self)
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// How a slot's tensor is stored, which is there: in tiles, or, for nil, in rows.
    private func storedLayout(of slot: TensorSlot) throws(CheckpointError) -> QuantizedLayout? {
        let tensor = slot.specification
        var layout: QuantizedLayout?
        if case .quantized(let form) = slot.layout {
            layout = form.layout(tensor.shape.dimensions[form.order == .byOutputs ? 0 : 1])
        }
        return try source.require(tensor, tiles: layout) ? layout : nil
    }

    /// Divides what is stored in rows.
    private func cut(_ slot: TensorSlot, base: UnsafeMutableRawPointer) {
        let rowByteCount = max(1, slot.byteCount / slot.rows.count)
        // Turned over, a band's rows become columns: whole cache lines of them.
        let unit =
            switch slot.layout {
            case .transposed: 32
            case .quantized: Quantization.tileOutputs
            case .rows, .vector, .zeros: 1
            }
        let step = max(unit, Self.pieceByteCount / rowByteCount / unit * unit)
        for lower in stride(from: slot.rows.lowerBound, to: slot.rows.upperBound, by: step) {
            let rows = lower..<min(lower + step, slot.rows.upperBound)
            pieces.append(
                Piece(slot: slot, range: rows, base: base, byteCount: rowByteCount * rows.count))
        }
    }

    /// Divides what is stored in tiles.
    private func cut(_ slot: TensorSlot, stored layout: QuantizedLayout, base: UnsafeMutableRawPointer) {
        let units = slot.units(of: layout)
        let step = max(1, Self.pieceByteCount / max(1, slot.byteCount / units.count))
        for lower in stride(from: units.lowerBound, to: units.upperBound, by: step) {
            let run = lower..<min(lower + step, units.upperBound)
            let bytes = TileBlock(name: slot.specification.name, layout: layout, units: run).bytes
            pieces.append(
                Piece(slot: slot, range: run, tiles: layout, base: base, byteCount: bytes.count))
        }
    }

    func run(worker: Int) {
        while failure.withLock({ $0 == nil }) {
            let index = nextPiece.wrappingAdd(1, ordering: .relaxed).oldValue
            guard index < pieces.count else { return }
            do {
                try load(pieces[index])
            } catch {
                failure.withLock { $0 = $0 ?? error }
                return
            }
            let done = doneByteCount.wrappingAdd(pieces[index].byteCount, ordering: .relaxed).newValue
            progress(done, totalByteCount)
        }
    }

    private func load(_ piece: Piece) throws(CheckpointError) {
        let slot = piece.slot
        let name = slot.specification.name
        if let layout = piece.tiles {
            let block = TileBlock(name: name, layout: layout, units: piece.range)
            let start = layout.offset(ofUnit: slot.units(of: layout).lowerBound)
            return try source.readTiles(block, into: piece.base + block.bytes.lowerBound - start)
        }
        let firstRow = piece.range.lowerBound - slot.rows.lowerBound
        let block = TensorBlock(name: name, rows: piece.range, columns: slot.columns)
        switch slot.layout {
        case .vector:
            try source.readVector(
                name, elements: slot.columns, into: piece.base.assumingMemoryBound(to: Float.self))
        case .zeros:
            piece.base.assumingMemoryBound(to: Float.self).update(repeating: 0, count: slot.columns.count)
        case .rows:
            let destination = piece.base.assumingMemoryBound(to: UInt16.self) + firstRow * slot.columns.count
            try source.read(
                block, into: destination, stride: slot.columns.count, transposed: false, kernels: kernels)
        case .transposed:
            let destination = piece.base.assumingMemoryBound(to: UInt16.self) + firstRow
            try source.read(
                block, into: destination, stride: slot.rows.count, transposed: true, kernels: kernels)
        case .quantized(let form):
            try quantize(block, form, of: slot, into: piece.base)
        }
    }

    /// Reads a band of outputs and makes their tiles.
    private func quantize(
        _ block: TensorBlock, _ form: MatrixForm, of slot: TensorSlot, into base: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        let stride = block.columns.count
        let halves = UnsafeMutablePointer<UInt16>.allocate(capacity: block.rows.count * stride)
        defer { halves.deallocate() }
        try source.read(block, into: halves, stride: stride, transposed: false, kernels: kernels)
        let layout = form.layout(form.order == .byOutputs ? slot.rows.count : slot.columns.count)!
        let first = (block.rows.lowerBound - slot.rows.lowerBound) / Quantization.tileOutputs
        for index in 0..<block.rows.count / Quantization.tileOutputs {
            for group in 0..<layout.groupCount {
                let inputs = layout.inputs(ofGroup: group)
                var tile = tandem_quantize_tile(
                    weights: halves + index * Quantization.tileOutputs * stride + inputs.lowerBound,
                    stride: stride, inputs: inputs.count, bits: Int32(layout.quantization.bits),
                    tile: base + layout.offset(block: first + index, group: group))
                if kernels.pointee.quantize_tile(&tile) == 0 { continue }
                let row = block.rows.lowerBound + index * Quantization.tileOutputs
                throw CheckpointError(
                    .notFinite, file: source.location(of: block.name), tensor: block.name,
                    "Among rows \(row) to \(row + Quantization.tileOutputs - 1) are infinities or values that are no numbers, "
                        + "which cannot be compressed. Download the checkpoint again, or load it without --compress-weight."
                )
            }
        }
    }
}
