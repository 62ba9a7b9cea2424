import CPUKernels
import CUDA
import Checkpoints
import HostRuntime
import Placement
import TensorCore

/// Cuts the weights into pieces, makes their memory and loads them.
final class GPUWeightsBuilder<Source: TensorSource> {
    private let configuration: OPTConfiguration
    private let placement: Placement
    private let tensors: OPTTensors
    private let context: Context
    private let options: GPUWeights.Options
    private let loader: StagedLoader<Source>
    private let ring: StagingRing?
    private let pool: WorkerPool

    private(set) var layers: [GPULayer] = []
    private(set) var logits: [LogitsPiece] = []
    private(set) var finalNorm = GPUNorm(weight: 0, bias: 0)
    private(set) var projectIn: UInt64 = 0
    private(set) var projectOut: UInt64 = 0
    private(set) var tokenTable, positionTable: PlacedTable?
    private(set) var streamer: WeightStreamer?
    private(set) var deviceBuffers: [DeviceMemory] = []
    private(set) var hostShards: [LayerShard] = []
    private(set) var hostMemory: [PinnedMemory] = []
    let file: OffloadFile?
    let totalByteCount: Int

    private var blocks: [StreamedBlock] = []
    private var diskBlocks: [DiskReader.Block] = []
    private var fileByteCount = 0

    init(
        _ configuration: OPTConfiguration, placement: Placement, source: Source, pool: WorkerPool,
        kernels: UnsafePointer<tandem_cpu_kernels>, context: Context, options: GPUWeights.Options,
        progress: @escaping @Sendable (Int, Int) -> Void
    ) throws {
        self.configuration = configuration
        self.placement = placement
        self.context = context
        self.options = options
        self.pool = pool
        tensors = OPTTensors(configuration: configuration)
        for specification in configuration.tensorSpecifications {
            do {
                try source.require(specification.name, shape: specification.shape)
            } catch {
                throw ModelError(.checkpoint, file: error.file, error.description)
            }
        }
        let usesDisk = LayerKind.allCases.contains { !placement[$0].weights.disk.isEmpty }
        file = usesDisk ? try OffloadFile(in: options.offloadFolder) : nil
        totalByteCount =
            LayerKind.allCases.reduce(placement.shape.projectionByteCount + placement.shape.vectorByteCount) {
                $0 + placement.byteCount($1, 0..<placement[$1].count)
            }
        loader = try StagedLoader(
            source, pool: pool, kernels: kernels, context: context, file: file,
            totalByteCount: totalByteCount,
            progress: progress)
        ring =
            placement.streamsWeights
            ? try StagingRing(
                slotByteCount: GPUWeights.slotByteCount(placement.shape), slotCount: options.stagingSlotCount,
                context: context) : nil
    }

    func load() throws {
        try loadEnds()
        for layer in 0..<configuration.layerCount { try load(layer: layer) }
        appendLogits()
        try loader.finish()
        guard let ring else { return }
        let reader = try file.flatMap { file in
            diskBlocks.isEmpty ? nil : try DiskReader(diskBlocks, file: file, context: context)
        }
        streamer = try WeightStreamer(blocks, ring: ring, reader: reader, context: context)
    }

    // MARK: Layers

    private func load(layer: Int) throws {
        let hiddenSize = configuration.hiddenSize
        let headSize = configuration.headDimension
        let rowByteCount = hiddenSize * 2
        let attention = placement.attention
        let mlp = placement.mlp
        var parts: [StagedLoader<Source>.Part] = []

        let shard = try hostShard(layer: layer, heads: attention.weights.cpu, neurons: mlp.weights.cpu)
        if let shard {
            parts.append(
                .init(slots: shard.slots, byteCount: shard.byteCount, destination: .memory(shard.base)))
        }

        // Resident matrices and all vectors in one piece of GPU memory.
        var layout = SlotLayout()
        let resident = ResidentOffsets(&layout, tensors, layer: layer, attention.resident, mlp.resident)
        let headPieces =
            (attention.resident.isEmpty ? [] : [(attention.resident, Tier.gpu)])
            + cut(attention.streamed(from: .cpu), unit: 1, itemByteCount: placement.shape.bytesPerHead, .cpu)
            + cut(
                attention.streamed(from: .disk), unit: 1, itemByteCount: placement.shape.bytesPerHead, .disk)
        let biases = headPieces.map { heads, _ in
            qkvBias(&layout, layer: layer, heads.lowerBound * headSize..<heads.upperBound * headSize)
        }
        let vectors = VectorOffsets(&layout, tensors, layer: layer)
        let memory = try DeviceMemory(byteCount: layout.byteCount, context: context)
        deviceBuffers.append(memory)
        parts.append(
            .init(slots: layout.slots, byteCount: layout.byteCount, destination: .gpu(memory.address)))
        func address(_ offset: Int?) -> UInt64 { offset.map { memory.address + UInt64($0) } ?? 0 }

        var attentionPieces: [AttentionPiece] = []
        for ((heads, tier), bias) in zip(headPieces, biases) {
            let rows = heads.lowerBound * headSize..<heads.upperBound * headSize
            if tier == .gpu {
                attentionPieces.append(
                    AttentionPiece(
                        heads: heads, qkv: address(resident.qkv), output: address(resident.output),
                        qkvBias: address(bias), streamIndex: nil))
                continue
            }
            let index = try stream(byteCount: 4 * rows.count * rowByteCount, tier) { slots in
                for projection in [OPTTensors.Projection.query, .key, .value] {
                    _ = slots.matrix(tensors.projectionWeight(projection, layer: layer), rows: rows)
                    slots.joinNext()
                }
                _ = slots.transposedMatrix(tensors.projectionWeight(.output, layer: layer), columns: rows)
            } host: {
                shard!.attentionRuns(rows, headSize: headSize, rowByteCount: rowByteCount)
            } load: {
                parts.append($0)
            }
            let slot = ring!.address(ofSlot: blocks[index].slot)
            attentionPieces.append(
                AttentionPiece(
                    heads: heads, qkv: slot, output: slot + UInt64(3 * rows.count * rowByteCount),
                    qkvBias: address(bias), streamIndex: index))
        }

        let neuronPieces =
            (mlp.resident.isEmpty ? [] : [(mlp.resident, Tier.gpu)])
            + cut(mlp.streamed(from: .cpu), unit: 64, itemByteCount: placement.shape.bytesPerNeuron, .cpu)
            + cut(mlp.streamed(from: .disk), unit: 64, itemByteCount: placement.shape.bytesPerNeuron, .disk)
        var mlpPieces: [MLPPiece] = []
        for (neurons, tier) in neuronPieces {
            if tier == .gpu {
                mlpPieces.append(
                    MLPPiece(
                        neurons: neurons, fc1: address(resident.fc1), fc2: address(resident.fc2),
                        streamIndex: nil))
                continue
            }
            let index = try stream(byteCount: 2 * neurons.count * rowByteCount, tier) { slots in
                _ = slots.matrix(tensors.fc1Weight(layer: layer), rows: neurons)
                slots.joinNext()
                _ = slots.transposedMatrix(tensors.fc2Weight(layer: layer), columns: neurons)
            } host: {
                shard!.mlpRuns(neurons, rowByteCount: rowByteCount)
            } load: {
                parts.append($0)
            }
            let slot = ring!.address(ofSlot: blocks[index].slot)
            mlpPieces.append(
                MLPPiece(
                    neurons: neurons, fc1: slot, fc2: slot + UInt64(neurons.count * rowByteCount),
                    streamIndex: index))
        }

        layers.append(
            GPULayer(
                attention: attentionPieces, mlp: mlpPieces,
                attentionNorm: GPUNorm(
                    weight: address(vectors.attentionNormWeight), bias: address(vectors.attentionNormBias)),
                outputBias: address(vectors.outputBias),
                mlpNorm: GPUNorm(weight: address(vectors.mlpNormWeight), bias: address(vectors.mlpNormBias)),
                fc1Bias: address(vectors.fc1Bias), fc2Bias: address(vectors.fc2Bias)))
        try loader.load(parts)
    }

    /// The layer's part in CPU memory; nil where it has none. Its biases and norms serve nobody here and are left out.
    private func hostShard(layer: Int, heads: Range<Int>, neurons: Range<Int>) throws -> HostShard? {
        if heads.isEmpty && neurons.isEmpty { return nil }
        let shard = try LayerShard(tensors, layer: layer, heads: heads, neurons: neurons)
        pool.firstTouch(base: shard.buffer.baseAddress, byteCount: shard.buffer.byteCount)
        hostShards.append(shard)
        hostMemory.append(
            try PinnedMemory(
                shard.buffer.baseAddress, byteCount: shard.buffer.byteCount, owner: shard,
                isPinned: options.pinsWeights, context: context))
        return HostShard(shard)
    }

    private func qkvBias(_ layout: inout SlotLayout, layer: Int, _ rows: Range<Int>) -> Int? {
        let query = layout.vector(tensors.projectionBias(.query, layer: layer), elements: rows)
        if query == nil { return nil }
        layout.joinNext()
        _ = layout.vector(tensors.projectionBias(.key, layer: layer), elements: rows)
        layout.joinNext()
        _ = layout.vector(tensors.projectionBias(.value, layer: layer), elements: rows)
        return query
    }

    // MARK: The tables at the ends

    private func loadEnds() throws {
        tokenTable = try loadTable(
            tensors.tokenEmbedding, placement.tokenTable.weights,
            rowByteCount: placement.shape.bytesPerTokenRow,
            pieces: {
                self.cut($0, unit: 64, itemByteCount: self.placement.shape.bytesPerTokenRow, .disk).map(\.0)
            })
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

    private func appendLogits() {
        let table = tokenTable!
        if !table.resident.isEmpty {
            logits.append(LogitsPiece(rows: table.resident, table: table.residentAddress, streamIndex: nil))
        }
        for (rows, _) in cut(table.host, unit: 64, itemByteCount: table.rowByteCount, .cpu) {
            let run = UnsafeRawBufferPointer(
                start: table.hostBase! + (rows.lowerBound - table.host.lowerBound) * table.rowByteCount,
                count: rows.count * table.rowByteCount)
            appendLogits(rows, append(.host([run]), byteCount: run.count))
        }
        for run in table.disk {
            let byteCount = run.rows.count * table.rowByteCount
            diskBlocks.append(
                DiskReader.Block(
                    fileOffset: run.fileOffset, byteCount: StagedLoaderAlignment.aligned(byteCount)))
            appendLogits(run.rows, append(.disk, byteCount: byteCount))
        }
    }

    private func appendLogits(_ rows: Range<Int>, _ index: Int) {
        logits.append(
            LogitsPiece(rows: rows, table: ring!.address(ofSlot: blocks[index].slot), streamIndex: index))
    }

    // MARK: Streaming

    /// Cuts a range into pieces that fit into a staging slot, about equal.
    private func cut(_ range: Range<Int>, unit: Int, itemByteCount: Int, _ tier: Tier) -> [(Range<Int>, Tier)]
    {
        if range.isEmpty { return [] }
        let most = max(unit, GPUWeights.slotByteCount(placement.shape) / itemByteCount / unit * unit)
        let count = divideUp(range.count, most)
        let size = divideUp(divideUp(range.count, count), unit) * unit
        return stride(from: range.lowerBound, to: range.upperBound, by: size).map {
            ($0..<min($0 + size, range.upperBound), tier)
        }
    }

    /// Adds a block from CPU memory or disk to the stream; its place in the order of the stream.
    private func stream(
        byteCount: Int, _ tier: Tier, layOut: (inout SlotLayout) -> Void,
        host: () -> [UnsafeRawBufferPointer],
        load: (StagedLoader<Source>.Part) -> Void
    ) throws -> Int {
        if tier == .cpu { return append(.host(host()), byteCount: byteCount) }
        var layout = SlotLayout()
        layOut(&layout)
        let offset = reserveFile(byteCount)
        load(.init(slots: layout.slots, byteCount: byteCount, destination: .file(offset: offset)))
        diskBlocks.append(
            DiskReader.Block(fileOffset: offset, byteCount: StagedLoaderAlignment.aligned(byteCount)))
        return append(.disk, byteCount: byteCount)
    }

    private func append(_ source: StreamedBlock.Source, byteCount: Int) -> Int {
        blocks.append(
            StreamedBlock(source: source, byteCount: byteCount, slot: blocks.count % ring!.slotCount))
        return blocks.count - 1
    }

    private func reserveFile(_ byteCount: Int) -> Int {
        let offset = fileByteCount
        fileByteCount += StagedLoaderAlignment.aligned(byteCount)
        return offset
    }
}

/// Where a layer's resident matrices lie in its GPU memory.
private struct ResidentOffsets {
    let qkv, output, fc1, fc2: Int

    init(
        _ layout: inout SlotLayout, _ tensors: OPTTensors, layer: Int, _ heads: Range<Int>,
        _ neurons: Range<Int>
    ) {
        let headSize = tensors.configuration.headDimension
        let rows = heads.lowerBound * headSize..<heads.upperBound * headSize
        qkv = layout.matrix(tensors.projectionWeight(.query, layer: layer), rows: rows)
        layout.joinNext()
        _ = layout.matrix(tensors.projectionWeight(.key, layer: layer), rows: rows)
        layout.joinNext()
        _ = layout.matrix(tensors.projectionWeight(.value, layer: layer), rows: rows)
        output = layout.transposedMatrix(tensors.projectionWeight(.output, layer: layer), columns: rows)
        fc1 = layout.matrix(tensors.fc1Weight(layer: layer), rows: neurons)
        fc2 = layout.transposedMatrix(tensors.fc2Weight(layer: layer), columns: neurons)
    }
}

/// Where a layer's vectors lie in its GPU memory; nil where the model has none.
private struct VectorOffsets {
    let attentionNormWeight, attentionNormBias, outputBias: Int?
    let mlpNormWeight, mlpNormBias, fc1Bias, fc2Bias: Int?

    init(_ layout: inout SlotLayout, _ tensors: OPTTensors, layer: Int) {
        attentionNormWeight = layout.vector(tensors.attentionLayerNorm(.weight, layer: layer))
        attentionNormBias = layout.vector(tensors.attentionLayerNorm(.bias, layer: layer))
        outputBias = layout.vector(tensors.projectionBias(.output, layer: layer))
        mlpNormWeight = layout.vector(tensors.mlpLayerNorm(.weight, layer: layer))
        mlpNormBias = layout.vector(tensors.mlpLayerNorm(.bias, layer: layer))
        fc1Bias = layout.vector(tensors.fc1Bias(layer: layer))
        fc2Bias = layout.vector(tensors.fc2Bias(layer: layer))
    }
}

/// A layer's part in CPU memory, as runs of bytes for the ring.
private struct HostShard {
    let shard: LayerShard

    init(_ shard: LayerShard) { self.shard = shard }

    var slots: [TensorSlot] { shard.slots }
    var byteCount: Int { shard.buffer.byteCount }
    var base: UnsafeMutableRawPointer { shard.buffer.baseAddress }

    /// Queries, keys, values and the output projection of `rows`, counted in the whole layer.
    func attentionRuns(_ rows: Range<Int>, headSize: Int, rowByteCount: Int) -> [UnsafeRawBufferPointer] {
        let first = rows.lowerBound - shard.heads.lowerBound * headSize
        let count = shard.heads.count * headSize
        let qkv = UnsafeRawPointer(shard.attention.qkv)
        let output = UnsafeRawPointer(shard.attention.output)
        let runs = [qkv, qkv + count * rowByteCount, qkv + 2 * count * rowByteCount, output]
        return runs.map {
            UnsafeRawBufferPointer(start: $0 + first * rowByteCount, count: rows.count * rowByteCount)
        }
    }

    /// fc1 and fc2 of `neurons`, counted in the whole layer.
    func mlpRuns(_ neurons: Range<Int>, rowByteCount: Int) -> [UnsafeRawBufferPointer] {
        let first = neurons.lowerBound - shard.neurons.lowerBound
        return [UnsafeRawPointer(shard.mlp.fc1), UnsafeRawPointer(shard.mlp.fc2)].map {
            UnsafeRawBufferPointer(start: $0 + first * rowByteCount, count: neurons.count * rowByteCount)
        }
    }
}

/// Plain CPU memory with an owner.
private final class HostMemoryBlock: Sendable {
    private let buffer: HostBuffer
    var base: UnsafeMutableRawPointer { buffer.baseAddress }

    init(byteCount: Int, pool: WorkerPool) throws(HostMemoryError) {
        buffer = try HostBuffer(byteCount: byteCount)
        pool.firstTouch(base: buffer.baseAddress, byteCount: byteCount)
    }
}
