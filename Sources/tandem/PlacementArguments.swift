import ArgumentParser
import Collectives
import Engine
import Placement
import SystemPackage

/// Where weights and cache lie, and how they come to the GPU; shared by the sub-commands.
struct PlacementArguments: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "auto: the least latency, of CPU and GPU together, by what tandem doctor measured. streamed: the GPU computes "
                + "everything, as much on it as fits. Or give percentages. (auto; low-latency-opt: streamed)",
            valueName: "how"))
    var placement: Choice?

    enum Choice: String, ExpressibleByArgument, CaseIterable {
        case auto, streamed
    }

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "GPU % and CPU % of input embedding, output embedding, self-attention and MLP: eight numbers, the rest is "
                + "on disk. The GPU computes everything.", valueName: "percent"))
    var perLayerPercent: [Double] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "The same for --per-layer-computation-percent: where the weights lie.", valueName: "percent"))
    var perLayerWeightPercent: [Double] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "The GPU's % of the computation of the same four: four numbers, none below the GPU's % of the weights. What it "
                + "computes and does not have is streamed to it; the CPU computes the rest.",
            valueName: "percent"))
    var perLayerComputationPercent: [Double] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "GPU % and CPU % of the attention cache: two numbers, the rest is on disk (100 0; where the CPU computes a part "
                + "of self-attention, as that).",
            valueName: "percent"))
    var cachePercent: [Double] = []

    @OptionGroup var compression: CompressionArguments

    @Option(
        defaultAsFlag: .on, parsing: .next, help: "Pin the weights in CPU memory, for fast copies (true).")
    var pinWeight: Switch?

    @Option(
        defaultAsFlag: .on, parsing: .next, help: "Copy weights while earlier layers compute (true).")
    var overlap: Switch?

    @Option(
        defaultAsFlag: .on, parsing: .next,
        help: "Let the CPU compute attention over the cache that lies there (false).")
    var cpuCacheCompute: Switch?

    @Option(
        defaultAsFlag: .on, parsing: .next,
        help:
            "Move neurons between streaming and the CPU from token to token, as both keep up (true, unless percentages are given)."
    )
    var rebalance: Switch?

    @Option(
        help: ArgumentHelp(
            "The most GPU memory that may be used, such as 24GiB, as if the GPU had no more.",
            valueName: "size"))
    var gpuMemory: MemorySize?

    @Option(
        help: ArgumentHelp(
            "The most CPU memory that weights, cache and buffers may take, such as 64GiB.", valueName: "size"
        ))
    var cpuMemory: MemorySize?

    @Option(help: ArgumentHelp("Where weights and cache of the disk lie.", valueName: "folder"))
    var offloadDir: String?

    @Option(help: ArgumentHelp("Slots of the ring through which weights stream.", valueName: "count"))
    var stagingSlots = 4

    func validate() throws {
        let request = try request
        _ = try cacheShares
        if let placement, request != nil {
            throw ValidationError(
                "--placement \(placement.rawValue) chooses the percentages; leave it or the percentages out")
        }
        if placement == .auto, !cachePercent.isEmpty {
            throw ValidationError(
                "--placement auto chooses the cache's percentages too; leave it or --cache-percent out")
        }
        _ = try (pinsWeights, overlaps, computesCacheOnCPU, rebalances)
        if try compression.isAutomatic && computesCacheOnCPU {
            throw ValidationError(
                "--compress auto cannot predict steps with --cpu-cache-compute; leave one of them out")
        }
        guard stagingSlots >= 2 else {
            throw ValidationError(
                "--staging-slots is \(stagingSlots); give 2 or more, so that one fills while one is read")
        }
        if offloadDir?.isEmpty == true { throw ValidationError("--offload-dir is empty; name a folder") }
    }

    /// What was asked; nil where the placement is left to Tandem.
    var request: PlacementRequest? {
        get throws {
            if !perLayerWeightPercent.isEmpty || !perLayerComputationPercent.isEmpty {
                return try balancedRequest
            }
            guard !perLayerPercent.isEmpty else { return nil }
            return try PlacementRequest(
                perLayerPercent: perLayerPercent, cachePercent: cachePercent.isEmpty ? nil : cachePercent)
        }
    }

    private var balancedRequest: PlacementRequest {
        get throws {
            guard perLayerPercent.isEmpty else {
                throw ValidationError(
                    "--per-layer-percent says that the GPU computes everything; give --per-layer-weight-percent in its "
                        + "place beside --per-layer-computation-percent")
            }
            guard !perLayerWeightPercent.isEmpty else {
                throw ValidationError(
                    "--per-layer-computation-percent needs --per-layer-weight-percent, which says where the weights lie"
                )
            }
            return try PlacementRequest(
                perLayerWeightPercent: perLayerWeightPercent,
                perLayerComputationPercent: perLayerComputationPercent.isEmpty
                    ? [100, 100, 100, 100] : perLayerComputationPercent,
                cachePercent: cachePercent.isEmpty ? nil : cachePercent)
        }
    }

    /// The cache's shares, which may be asked without those of the weights; nil where they are not.
    var cacheShares: TierShares? {
        get throws { cachePercent.isEmpty ? nil : try PlacementRequest.cacheShares(cachePercent) }
    }

    var pinsWeights: Bool {
        get throws { try pinWeight?.isOn("--pin-weight") ?? true }
    }

    var overlaps: Bool {
        get throws { try overlap?.isOn("--overlap") ?? true }
    }

    var computesCacheOnCPU: Bool {
        get throws { try cpuCacheCompute?.isOn("--cpu-cache-compute") ?? false }
    }

    /// nil where it is left to Tandem.
    var rebalances: Bool? {
        get throws { try rebalance?.isOn("--rebalance") }
    }

    /// What must be the same on all processes that share a model.
    var agreement: [ControlLink.Agreement] {
        func text(_ percents: [Double]) -> String {
            percents.isEmpty ? "not given" : percents.map(\.plainText).joined(separator: " ")
        }
        return [
            ControlLink.Agreement("--placement", placement?.rawValue ?? "not given"),
            ControlLink.Agreement("--per-layer-percent", text(perLayerPercent)),
            ControlLink.Agreement("--per-layer-weight-percent", text(perLayerWeightPercent)),
            ControlLink.Agreement("--per-layer-computation-percent", text(perLayerComputationPercent)),
            ControlLink.Agreement("--cache-percent", text(cachePercent)),
        ] + compression.agreement
    }

    /// `options` with the placement that was asked for.
    func engineOptions(_ options: Engine.Options) throws -> Engine.Options {
        var options = options
        options.placement = try request
        if let placement { options.placesFor = placement == .auto ? .latency : .streaming }
        options.cacheShares = try cacheShares
        options.quantization = try compression.quantization
        options.compressesCache = try compression.compressesCache
        options.automaticCompression = try compression.automatic
        options.pinsWeights = try pinsWeights
        options.overlaps = try overlaps
        options.stagingSlotCount = stagingSlots
        options.rebalances = try rebalances
        options.gpuMemoryByteCount = gpuMemory?.byteCount
        options.cpuMemoryByteCount = cpuMemory?.byteCount
        options.computesCacheOnCPU = try computesCacheOnCPU
        options.offloadFolder = offloadDir.map { FilePath($0) }
        return options
    }
}
