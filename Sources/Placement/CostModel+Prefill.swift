/// Prefill.
extension CostModel {
    /// The workload's prompts, to the first token.
    ///
    /// With a GPU it computes everything, and what does not lie on it is copied to it once for every pass of
    /// `prefillRowCount` rows, that which the CPU computes in decode steps too. What the ring holds already when prefill
    /// begins is not copied. Without a GPU the CPU computes, which is bound by arithmetic.
    public func prefill(_ placement: Placement) -> StepCost {
        let shape = placement.shape
        let kinds: [LayerKind] = [.attention, .mlp]
        let layerByteCount = kinds.reduce(0) { $0 + placement.byteCount($1, 0..<placement[$1].count) }
        let tableByteCount = placement.byteCount(.outputEmbedding, 0..<placement.tokenTable.count)
        let rowCount = Double(workload.promptRowCount)
        // Logits are made of a prompt's last row only.
        let layerWeightCount =
            shape.layerCount
            * (shape.headCount * shape.weightsPerHead + shape.feedForwardSize * shape.weightsPerNeuron)
        let tableWeightCount = shape.vocabularySize * shape.embeddingSize
        let operationCount =
            2 * (Double(layerWeightCount) * rowCount + Double(tableWeightCount * workload.batchSize))
        let byteCount = Double(layerByteCount + tableByteCount)
        var cost = StepCost()
        guard hardware.gpu != nil else {
            cost.cpuSeconds = max(operationCount / rates.cpuOperations, byteCount / rates.cpuReadAlone)
            cost.seconds = cost.cpuSeconds
            cost.waitedFor = .cpu
            return cost
        }
        let passes = Double(
            (workload.promptRowCount + Self.prefillRowCount - 1) / Self.prefillRowCount)
        let streamedFromDisk = Double(placement.streamedByteCount(from: .disk))
        let streamed = streamedFromDisk + Double(placement.streamedByteCount(from: .cpu))
        let fetched = Double(placement.cpuComputedByteCount)
        let held = min(streamed, Double(staging.slotCount * staging.slotByteCount))
        let diskShare = streamed == 0 ? 0 : streamedFromDisk / streamed
        let cacheElsewhere = [Tier.cpu, .disk].reduce(0) {
            $0 + placement.cacheByteCount(on: $1, positionCount: workload.promptRowCount)
        }
        cost.gpuSeconds =
            max(operationCount / Self.gpuOperationsPerSecond, passes * byteCount / rates.gpuRead)
            + Double(cacheElsewhere) / (Self.prefillInPlaceCacheEfficiency * rates.uploadAlone)
        cost.pcieSeconds = (passes * (streamed + fetched / Self.fetchEfficiency) - held) / rates.uploadAlone
        cost.diskSeconds =
            (passes * (streamedFromDisk + Double(placement.cpuComputedByteCount(on: .disk))) - diskShare
                * held) / (Self.diskReadEfficiency * rates.disk)
        cost.seconds = max(cost.gpuSeconds, cost.pcieSeconds, cost.diskSeconds)
        cost.waitedFor =
            cost.diskSeconds == cost.seconds ? .disk : cost.pcieSeconds == cost.seconds ? .pcie : .gpu
        return cost
    }
}
