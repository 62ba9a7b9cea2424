/// What a run needs beside the weights; the sizes are the caller's to choose.
public struct WorkingMemory: Sendable, Hashable {
    /// The positions that all sequences have room for, together.
    public var cachePositionCount = 0
    /// The layers of the cache on disk that have slots in CPU memory.
    public var cacheSlotCount = 0
    /// One slot of the ring through which weights are streamed to the GPU.
    public var stagingSlotByteCount = 0
    public var stagingSlotCount = 0
    /// Slots of the same size through which prefill gets what the CPU computes in decode steps.
    public var fetchSlotCount = 0
    /// Activations, logits and what else the kernels need on the GPU.
    public var gpuScratchByteCount = 0
    /// The pinned buffers into which the disk is read.
    public var readBufferByteCount = 0
    /// Those for what the CPU computes.
    public var cpuReadBufferByteCount = 0

    public init() {}
}

/// The bytes that a placement needs on each tier, item by item.
public struct MemoryDemand: Sendable, Hashable {
    /// What bytes are needed for.
    public enum Purpose: Sendable, Hashable {
        case weights(LayerKind)
        /// 350m's `project_in` and `project_out`.
        case projections
        case biasesAndNorms
        case cache
        case cacheSlots
        case stagingRing
        case fetchedWeights
        case readBuffers
        case cpuReadBuffers
        case scratch

        /// The purpose's name in reports and sentences.
        public var label: String {
            switch self {
            case .weights(.inputEmbedding): "position table"
            case .weights(.outputEmbedding): "token table"
            case .weights(let kind): kind.label
            case .projections: "projections"
            case .biasesAndNorms: "biases and norms"
            case .cache: "cache"
            case .cacheSlots: "slots of the cache on disk"
            case .stagingRing: "staging ring"
            case .fetchedWeights: "the CPU's weights in prefill"
            case .readBuffers: "read buffers"
            case .cpuReadBuffers: "the CPU's read buffers"
            case .scratch: "scratch"
            }
        }
    }

    public struct Item: Sendable, Hashable {
        public let tier: Tier
        public let purpose: Purpose
        public let byteCount: Int
    }

    /// All that is more than nothing, tier by tier.
    public let items: [Item]

    /// Adds up what `placement` needs.
    ///
    /// The ring is counted where weights are streamed, read buffers where they are from the disk, others where the CPU
    /// computes with what lies there, slots where a part of the cache does. Biases and norms are on the GPU in any case; where the CPU computes a part of the layers, it
    /// has a copy of them. On disk a sequence's cache takes whole blocks, which may be some more than is counted here.
    public init(_ placement: Placement, _ working: WorkingMemory) {
        let shape = placement.shape
        var items: [Item] = []
        func add(_ tier: Tier, _ purpose: Purpose, _ byteCount: Int) {
            if byteCount > 0 { items.append(Item(tier: tier, purpose: purpose, byteCount: byteCount)) }
        }
        func addPlaced(_ tier: Tier) {
            for kind in LayerKind.allCases {
                add(tier, .weights(kind), placement.weightByteCount(kind, on: tier))
            }
            let positionCount = working.cachePositionCount
            add(tier, .cache, placement.cacheByteCount(on: tier, positionCount: positionCount))
        }
        addPlaced(.gpu)
        add(.gpu, .projections, shape.projectionByteCount)
        add(.gpu, .biasesAndNorms, shape.vectorByteCount)
        if placement.streamsWeights {
            add(.gpu, .stagingRing, working.stagingSlotByteCount * working.stagingSlotCount)
        }
        if placement.computesOnCPU {
            add(.gpu, .fetchedWeights, working.stagingSlotByteCount * working.fetchSlotCount)
        }
        add(.gpu, .scratch, working.gpuScratchByteCount)
        addPlaced(.cpu)
        if placement.computesOnCPU { add(.cpu, .biasesAndNorms, shape.vectorByteCount) }
        if placement.streamedByteCount(from: .disk) > 0 {
            add(.cpu, .readBuffers, working.readBufferByteCount)
        }
        if placement.cpuComputedByteCount(on: .disk) > 0 {
            add(.cpu, .cpuReadBuffers, working.cpuReadBufferByteCount)
        }
        let onDisk = placement.cacheByteCount(on: .disk, positionCount: working.cachePositionCount)
        let slotCount = min(working.cacheSlotCount, shape.layerCount)
        add(.cpu, .cacheSlots, onDisk / max(1, shape.layerCount) * slotCount)
        addPlaced(.disk)
        self.items = items
    }

    /// The bytes needed on `tier`.
    public func byteCount(on tier: Tier) -> Int {
        items.reduce(0) { $0 + ($1.tier == tier ? $1.byteCount : 0) }
    }

    /// The bytes needed on `tier` for `purpose`.
    public func byteCount(on tier: Tier, for purpose: Purpose) -> Int {
        items.first { $0.tier == tier && $0.purpose == purpose }?.byteCount ?? 0
    }
}
