import CPUKernels
import CUDA
import Checkpoints
import HostRuntime
import Placement
import TensorCore

/// Cuts the weights into pieces, makes their memory and loads them.
final class GPUWeightsBuilder<Source: TensorSource> {
    let configuration: OPTConfiguration
    let placement: Placement
    let tensors: OPTTensors
    let context: Context
    let options: GPUWeights.Options
    let loader: StagedLoader<Source>
    let ring: StagingRing?
    let pool: WorkerPool

    var layers: [GPULayer] = []
    var logits: [LogitsPiece] = []
    var finalNorm = GPUNorm(weight: 0, bias: 0)
    var projectIn: UInt64 = 0
    var projectOut: UInt64 = 0
    var tokenTable, positionTable: PlacedTable?
    var streamer: WeightStreamer?
    let fetcher: WeightFetcher?
    let boundary: MovingBoundary?
    var fetchedLogits: [LogitsPiece] = []
    var cpuDisk: CPUDiskWeights?
    var cpuDiskContents = CPUDiskWeights.Contents()
    var deviceBuffers: [DeviceMemory] = []
    var hostShards: [LayerShard] = []
    var hostMemory: [PinnedMemory] = []
    let file: OffloadFile?
    let totalByteCount: Int

    var blocks: [StreamedBlock] = []
    var diskBlocks: [DiskReader.Block] = []
    var fileByteCount = 0

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
                try source.require(specification, tiles: configuration.layout(of: specification))
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
        fetcher =
            placement.computesOnCPU
            ? try WeightFetcher(slotByteCount: GPUWeights.slotByteCount(placement.shape), context: context)
            : nil
        boundary =
            options.rebalances
            ? MovingBoundary(
                placement, slotCount: options.stagingSlotCount, unit: options.rebalancingUnit) : nil
    }

    func load() throws {
        try loadEnds()
        for layer in 0..<configuration.layerCount { try load(layer: layer) }
        appendLogits()
        try loader.finish()
        if let file, !cpuDiskContents.blocks.isEmpty {
            cpuDisk = try CPUDiskWeights(cpuDiskContents, file: file, context: context)
            fetcher!.disk = cpuDisk
        }
        guard let ring else { return }
        let reader = try file.flatMap { file in
            diskBlocks.isEmpty ? nil : try DiskReader(diskBlocks, file: file, context: context)
        }
        streamer = try WeightStreamer(
            blocks, ring: ring, reader: reader, boundary: boundary, context: context)
    }

    // MARK: Layers

    private func load(layer: Int) throws {
        let headSize = configuration.headDimension
        let attention = placement.attention
        let mlp = placement.mlp
        var parts: [StagedLoader<Source>.Part] = []

        // Without weights there it has the vectors that the CPU needs all the same.
        let shard =
            attention.weights.cpu.isEmpty && mlp.weights.cpu.isEmpty && attention.cpuComputed.isEmpty
                && mlp.cpuComputed.isEmpty
            ? nil : try hostShard(layer: layer, heads: attention.weights.cpu, neurons: mlp.weights.cpu)
        if let shard {
            parts.append(
                .init(slots: shard.slots, byteCount: shard.byteCount, destination: .memory(shard.base)))
        }

        // Resident matrices and all vectors in one piece of GPU memory.
        var layout = SlotLayout()
        let resident = LayerMatrixOffsets(
            &layout, tensors, layer: layer, heads: attention.resident, neurons: mlp.resident)
        let headPieces =
            (attention.resident.isEmpty ? [] : [(attention.resident, Tier.gpu)])
            + cut(attention.streamed(from: .cpu), unit: 1, itemByteCount: placement.shape.bytesPerHead, .cpu)
            + cut(
                attention.streamed(from: .disk), unit: 1, itemByteCount: placement.shape.bytesPerHead, .disk)
        let fetchedHeads = cutComputed(attention, unit: 1, itemByteCount: placement.shape.bytesPerHead)
        let biases = headPieces.map { heads, _ in layout.qkvBias(tensors, layer: layer, heads: heads) }
        let fetchedBiases = fetchedHeads.map { layout.qkvBias(tensors, layer: layer, heads: $0.0) }
        let vectors = LayerVectorOffsets(&layout, tensors, layer: layer, neurons: 0..<mlp.count)
        let memory = try DeviceMemory(byteCount: layout.byteCount, context: context)
        deviceBuffers.append(memory)
        parts.append(
            .init(slots: layout.slots, byteCount: layout.byteCount, destination: .gpu(memory.address)))
        func address(_ offset: Int?) -> UInt64 { offset.map { memory.address + UInt64($0) } ?? 0 }

        var attentionPieces: [AttentionPiece] = []
        for ((heads, tier), bias) in zip(headPieces, biases) {
            let rows = tensors.rows(of: heads)
            if tier == .gpu {
                attentionPieces.append(
                    AttentionPiece(
                        heads: heads, qkv: address(resident.qkv), output: address(resident.output),
                        qkvBias: address(bias), source: .resident))
                continue
            }
            let index = try stream(byteCount: attentionByteCount(rows.count), tier) { slots in
                _ = slots.qkv(tensors, layer: layer, heads: heads)
                slots.joinNext()
                _ = slots.output(tensors, layer: layer, rows: rows)
            } host: {
                shard!.attentionRuns(rows, headSize: headSize)
            } load: {
                parts.append($0)
            }
            let slot = ring!.address(ofSlot: blocks[index].slot)
            attentionPieces.append(
                AttentionPiece(
                    heads: heads, qkv: slot,
                    output: slot + UInt64(configuration.qkvForm.byteCount(3 * rows.count)),
                    qkvBias: address(bias), source: .streamed(index)))
        }
        let fetchedAttention = zip(fetchedHeads, fetchedBiases).map { piece, bias in
            let (heads, tier) = piece
            let rows = tensors.rows(of: heads)
            if tier == .disk { parts.append(addDiskHeads(heads, layer: layer)) }
            let index = fetcher!.add(
                .init(
                    source: tier == .disk
                        ? .disk
                        : .host(
                            shard!.attentionRuns(rows, headSize: headSize)),
                    byteCount: attentionByteCount(rows.count), itemCount: heads.count))
            let slot = fetcher!.address(ofBlock: index)
            return AttentionPiece(
                heads: heads, qkv: slot,
                output: slot + UInt64(configuration.qkvForm.byteCount(3 * rows.count)),
                qkvBias: address(bias), source: .fetched(index))
        }

        // Where the boundary moves, all of these are streamed as far as it says, and fetched from there on.
        let divided = boundary == nil ? nil : mlp.resident.upperBound..<mlp.count
        let neuronPieces =
            (mlp.resident.isEmpty ? [] : [(mlp.resident, Tier.gpu)])
            + cut(
                divided ?? mlp.streamed(from: .cpu), unit: 64, itemByteCount: placement.shape.bytesPerNeuron,
                .cpu)
            + cut(mlp.streamed(from: .disk), unit: 64, itemByteCount: placement.shape.bytesPerNeuron, .disk)
        var mlpPieces: [MLPPiece] = []
        for (neurons, tier) in neuronPieces {
            if tier == .gpu {
                mlpPieces.append(
                    MLPPiece(
                        neurons: neurons, fc1: address(resident.fc1), fc2: address(resident.fc2),
                        source: .resident))
                continue
            }
            let index = try stream(byteCount: mlpByteCount(neurons.count), tier) { slots in
                _ = slots.fc1(tensors, layer: layer, neurons: neurons)
                slots.joinNext()
                _ = slots.fc2(tensors, layer: layer, neurons: neurons)
            } host: {
                shard!.mlpRuns(neurons)
            } load: {
                parts.append($0)
            }
            let slot = ring!.address(ofSlot: blocks[index].slot)
            if divided != nil { blocks[index].neurons = neurons }
            mlpPieces.append(
                MLPPiece(
                    neurons: neurons, fc1: slot,
                    fc2: slot + UInt64(configuration.fc1Form.byteCount(neurons.count)),
                    source: .streamed(index), isDivided: divided != nil))
        }
        let fetchedNeurons =
            divided.map {
                cut($0, unit: 64, itemByteCount: placement.shape.bytesPerNeuron, .cpu)
            } ?? cutComputed(mlp, unit: 64, itemByteCount: placement.shape.bytesPerNeuron)
        let fetchedMLP = fetchedNeurons.map { neurons, tier in
            if tier == .disk { parts.append(addDiskNeurons(neurons, layer: layer)) }
            let index = fetcher!.add(
                .init(
                    source: tier == .disk
                        ? .disk : .host(shard!.mlpRuns(neurons)),
                    byteCount: mlpByteCount(neurons.count), itemCount: neurons.count))
            let slot = fetcher!.address(ofBlock: index)
            return MLPPiece(
                neurons: neurons, fc1: slot,
                fc2: slot + UInt64(configuration.fc1Form.byteCount(neurons.count)),
                source: .fetched(index), isDivided: divided != nil)
        }

        layers.append(
            GPULayer(
                attention: attentionPieces, mlp: mlpPieces, fetchedAttention: fetchedAttention,
                fetchedMLP: fetchedMLP,
                attentionNorm: GPUNorm(
                    weight: address(vectors.attentionNormWeight), bias: address(vectors.attentionNormBias)),
                outputBias: address(vectors.outputBias),
                mlpNorm: GPUNorm(weight: address(vectors.mlpNormWeight), bias: address(vectors.mlpNormBias)),
                fc1Bias: address(vectors.fc1Bias), fc2Bias: address(vectors.fc2Bias)))
        try loader.load(parts)
    }

    /// Queries, keys, values and output projection of so many of the heads' rows, in bytes.
    private func attentionByteCount(_ rowCount: Int) -> Int {
        configuration.qkvForm.byteCount(3 * rowCount) + configuration.outputForm.byteCount(rowCount)
    }

    /// fc1 and fc2 of so many neurons, in bytes.
    private func mlpByteCount(_ neuronCount: Int) -> Int {
        configuration.fc1Form.byteCount(neuronCount) + configuration.fc2Form.byteCount(neuronCount)
    }

    /// The layer's part in CPU memory.
    private func hostShard(layer: Int, heads: Range<Int>, neurons: Range<Int>) throws -> HostShard {
        let shard = try LayerShard(tensors, layer: layer, heads: heads, neurons: neurons)
        pool.firstTouch(base: shard.buffer.baseAddress, byteCount: shard.buffer.byteCount)
        hostShards.append(shard)
        hostMemory.append(
            try PinnedMemory(
                shard.buffer.baseAddress, byteCount: shard.buffer.byteCount, owner: shard,
                isPinned: options.pinsWeights, context: context))
        return HostShard(shard)
    }

    // MARK: Streaming

    /// Cuts a range into pieces that fit into a staging slot, about equal.
    func cut(_ range: Range<Int>, unit: Int, itemByteCount: Int, _ tier: Tier) -> [(Range<Int>, Tier)] {
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
        return appendFromDisk(at: offset, byteCount: byteCount)
    }

    /// Adds a block of the offload file to the stream; its place in the order of the stream.
    func appendFromDisk(at fileOffset: Int, byteCount: Int) -> Int {
        diskBlocks.append(
            DiskReader.Block(fileOffset: fileOffset, byteCount: OffloadFile.aligned(byteCount)))
        return append(.disk, byteCount: byteCount)
    }

    func append(_ source: StreamedBlock.Source, byteCount: Int) -> Int {
        precondition(byteCount <= ring!.slotByteCount, "a block of \(byteCount) bytes is larger than a slot")
        blocks.append(
            StreamedBlock(source: source, byteCount: byteCount, slot: blocks.count % ring!.slotCount))
        return blocks.count - 1
    }

    func reserveFile(_ byteCount: Int) -> Int {
        let offset = fileByteCount
        fileByteCount += OffloadFile.aligned(byteCount)
        return offset
    }
}

extension MovingBoundary {
    /// Where a placement has the CPU's part of the MLP begin; nil where it cannot move: both lanes must have work, and what
    /// moves must lie in CPU memory.
    ///
    /// Something is always streamed: else the streaming thread would have nothing that keeps it in step.
    convenience init?(_ placement: Placement, slotCount: Int, unit: Int = Placement.rowUnit) {
        let mlp = placement.mlp
        let least = mlp.resident.upperBound + unit
        guard placement.streamsWeights, placement.streamedByteCount(from: .disk) == 0,
            mlp.weights.disk.isEmpty,
            !mlp.cpuComputed.isEmpty, least < mlp.count
        else { return nil }
        self.init(
            at: max(least, mlp.gpuComputed.upperBound), range: least...mlp.count, unit: unit,
            mostPassesAhead: slotCount)
    }
}
