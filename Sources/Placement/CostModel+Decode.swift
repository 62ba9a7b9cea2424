/// Decode steps.
extension CostModel {
    /// An average decode step of the workload.
    ///
    /// Weights do not depend on activations, so PCIe and disk work ahead over layers and tokens: all their bytes pass
    /// within the step, whatever block they belong to, but no more of a block is there when it begins than the ring holds.
    /// The lanes go block by block in lock step. The step takes what is longest: all blocks one behind the other, PCIe or
    /// the disk. What the CPU computes with it reads from CPU memory, where what lies on disk is read to.
    public func decodeStep(_ placement: Placement) -> StepCost {
        let traffic = StepTraffic(
            placement, positionCount: workload.meanPositionCount, cpuTurnCount: cpuTurnCount)
        let streamed = traffic.streamedFromCPU + traffic.streamedFromDisk
        precondition(
            hardware.gpu != nil || placement.gpuComputesNothing, "a GPU's part of a step without a GPU")
        let shared = rates.sharingMemory(
            cpuByteCount: traffic.cpuByteCount,
            pcieByteCount: streamed + traffic.inPlaceByteCount / Self.inPlaceCacheEfficiency)
        let cpuRate = shared.cpu > 0 ? traffic.cpuByteCount / shared.cpu : rates.cpuReadAlone

        var cost = StepCost()
        var blocksSeconds = 0.0
        // The blocks' seconds, by what takes longest in them.
        var slowest = (gpu: 0.0, cpu: 0.0, pcie: 0.0)
        func add(_ block: StepTraffic.Block, _ kind: LayerKind) {
            let count = Double(block.count)
            let gpu = gpuSeconds(
                block, isQuantized: kind != .outputEmbedding && placement.shape.quantization != nil)
            let cpu = cpuSeconds(block, bytesPerSecond: cpuRate)
            let hasJoin = hardware.gpu != nil && block.cpuByteCount > 0
            let join = hasJoin ? joinSeconds(kind, placement) : 0
            cost.gpuSeconds += count * gpu
            cost.cpuSeconds += count * cpu
            cost.joinSeconds += count * join
            let late = lateSeconds(block)
            blocksSeconds += count * (max(gpu, cpu, late) + join)
            switch max(gpu, cpu, late) {
            case cpu: slowest.cpu += count * cpu
            case gpu: slowest.gpu += count * gpu
            default: slowest.pcie += count * late
            }
        }
        add(traffic.attention, .attention)
        add(traffic.mlp, .mlp)
        add(traffic.logits, .outputEmbedding)

        // A slot cannot be filled while the GPU reads it; the others can.
        let held = streamed == 0 ? 0 : streamed / rates.gpuRead / Double(max(1, staging.slotCount))
        cost.pcieSeconds = shared.pcie + held
        cost.diskSeconds =
            (traffic.streamedFromDisk + traffic.computedFromDisk) / (Self.diskReadEfficiency * rates.disk)
            + traffic.diskCacheByteCount / (Self.diskCacheEfficiency * rates.disk)
        cost.seconds = max(blocksSeconds, cost.pcieSeconds, cost.diskSeconds)
        switch cost.seconds {
        case cost.diskSeconds: cost.waitedFor = .disk
        case cost.pcieSeconds: cost.waitedFor = .pcie
        default:
            let most = max(slowest.gpu, slowest.cpu, slowest.pcie)
            cost.waitedFor = most == slowest.gpu ? .gpu : most == slowest.cpu ? .cpu : .pcie
        }
        return cost
    }

    /// How often the CPU lane reads its weights in a step.
    private var cpuTurnCount: Int { (workload.batchSize + Self.cpuRowCount - 1) / Self.cpuRowCount }

    /// The GPU's part of one block.
    private func gpuSeconds(_ block: StepTraffic.Block, isQuantized: Bool) -> Double {
        guard hardware.gpu != nil else { return 0 }
        // Nothing else of the block can be done while attention reads its cache over PCIe.
        let inPlace =
            block.inPlaceByteCount == 0
            ? 0 : block.inPlaceByteCount / (Self.inPlaceCacheEfficiency * rates.uploadAlone)
        let reading = block.gpuByteCount / rates.gpuRead
        return inPlace
            + (isQuantized
                ? Self.quantizedGPUBlockSeconds + reading * Self.gpuReadEfficiency
                    / Self.quantizedGPUReadEfficiency
                : Self.gpuBlockSeconds + reading)
    }

    /// What is still to come over PCIe when a block begins, all other slots of the ring being full of it.
    private func lateSeconds(_ block: StepTraffic.Block) -> Double {
        let ahead = Double(max(0, staging.slotCount - 1) * staging.slotByteCount)
        let late = block.streamedByteCount - ahead
        return late <= 0 ? 0 : late / rates.uploadAlone
    }

    /// The CPU's part of one block: reading, then, for rows beyond the first, arithmetic that reading does not hide. A cache
    /// in 4 bits is read while it is computed with.
    private func cpuSeconds(_ block: StepTraffic.Block, bytesPerSecond: Double) -> Double {
        guard block.cpuByteCount > 0 else { return 0 }
        let operationCount = 2 * block.cpuWeightCount * Double(workload.batchSize - 1)
        let computing = block.cpuCachedElementCount / rates.cpuCachedElements
        let waiting = max(0, computing - block.cpuCacheByteCount / bytesPerSecond)
        let besideGPU =
            Self.cpuBlockSecondsBesideGPU + Double(workload.batchSize - 1) * Self.cpuRowSecondsBesideGPU
        return Self.cpuBlockSeconds + (hardware.gpu == nil ? 0 : besideGPU) + block.cpuByteCount
            / bytesPerSecond + waiting
            + operationCount / rates.cpuFewRowsOperations
    }

    /// One join: a row takes `joinSeconds`, others their way over PCIe on top of it, fp16 to the CPU and fp32 back.
    private func joinSeconds(_ kind: LayerKind, _ placement: Placement) -> Double {
        let shape = placement.shape
        let isLogits = kind == .outputEmbedding
        let inputWidth = isLogits ? shape.embeddingSize : shape.hiddenSize
        let answerWidth = isLogits ? placement.tokenTable.cpuComputed.count : shape.hiddenSize
        let byteCount = (workload.batchSize - 1) * (2 * inputWidth + 4 * answerWidth)
        return (hardware.together?.joinSeconds ?? Self.joinSeconds) + Double(byteCount) / rates.uploadAlone
    }
}

extension Placement {
    /// Whether all of the layers is the CPU's.
    var gpuComputesNothing: Bool {
        [attention, mlp, tokenTable].allSatisfy { $0.gpuComputed.isEmpty }
    }
}
