import CUDA
import Collectives

/// Where the processes of a group meet within a step of the GPU lane.
///
/// The residual stream is the same on all of them. Rank 0 adds its pieces to it, the others theirs to zeros, and the sum of
/// all is the residual stream behind the block.
extension GPULane {
    /// The sums of a step that goes operation by operation: behind the embedding and behind each block.
    static func sumsPerStep(_ configuration: OPTConfiguration) -> Int { 2 * configuration.layerCount + 1 }

    static func reducer(
        _ group: GroupPart?, _ configuration: OPTConfiguration, rowCapacity: Int, kernels: GPUKernels,
        scratch: borrowing GPUScratch, block: StepBlock, context: Context
    ) throws -> (any GPUReducer)? {
        guard let group else { return nil }
        let large: any GPUReducer
        if let nccl = group.gpus?.nccl {
            large = NCCLReducer(nccl)
        } else {
            large = try HostReducer(
                group.communicator!, mostCount: rowCapacity * configuration.hiddenSize, context: context)
        }
        guard let gpus = group.gpus, let memory = gpus.memory else { return large }
        return OneShotReducer(
            gpus, memory, large: large, kernels: kernels, sumsPerStep: sumsPerStep(configuration),
            step: scratch.step + UInt64(StepBlock.Layout.stepNumber), failure: block.failureAddress,
            clears: scratch.sum != scratch.residual)
    }

    /// The memory of the ranks' step kernels, and what they must know of each other; nil where a step is not one kernel on all
    /// of them.
    struct StepMemory {
        let ranks: StepRanks
        let memory: PeerMemory
    }

    /// All processes call it at the same time.
    static func stepMemory(
        _ group: GroupPart, _ weights: GPUWeights, kernels: GPUKernels, context: Context
    ) throws -> StepMemory? {
        guard let gpus = group.gpus, gpus.memory != nil, gpus.nccl != nil else { return nil }
        let (whole, rankCount) = (group.shard.whole, group.place.size)
        let isWhole =
            weights.isWholeOnGPU
            && weights.placement.cacheHeads.gpu.count == weights.configuration.headCount
        guard
            try gpus.agree(
                isWhole && StepRanks.takes(whole, rankCount: rankCount, kernels: kernels)),
            let blockCount = try gpus.least(kernels.multiprocessorCount),
            let memory = try gpus.makeMemory(
                byteCount: StepRanks.byteCount(whole, rankCount: rankCount, blockCount: blockCount),
                filledWith: 0xff, context: context)
        else { return nil }
        let ranks = StepRanks(
            whole, rank: group.place.rank, peers: (0..<rankCount).map { memory.address(of: $0) },
            blockCount: blockCount)
        return StepMemory(ranks: ranks, memory: memory)
    }

    /// Whether a decode step goes into the stream kernel by kernel, not as a graph.
    func launchesStepwise(_ pass: Pass) -> Bool {
        timeline != nil || reducer?.needsHost(count: sumCount(pass)) == true
    }

    private func sumCount(_ pass: Pass) -> Int { pass.rowCount * configuration.hiddenSize }

    /// Whether the logits of all processes come to rank 0's GPU, which then chooses the tokens.
    var gathersLogits: Bool { group?.gpus?.nccl != nil }

    /// The columns of a row of logits in this process's memory.
    static func logitsWidth(_ configuration: OPTConfiguration, _ group: GroupPart?) -> Int {
        guard let group, group.isConductor, group.gpus?.nccl != nil else {
            return configuration.vocabularySize
        }
        return group.shard.whole.vocabularySize
    }

    /// Lets a block begin with nothing but the residual stream, which comes from rank 0.
    func clearSum(_ pass: Pass) throws(CUDAError) {
        if scratch.sum == scratch.residual || reducer?.clears(count: sumCount(pass)) == true { return }
        try stream.fill(scratch.sum, byteCount: sumCount(pass) * 4)
    }

    /// Behind the embedding (0) and each block: the residual stream becomes the sum of all processes' sums.
    func meet(_ number: Int, _ pass: Pass) throws(CUDAError) {
        guard let reducer else { return }
        try exchange("meeting the other ranks") {
            try reducer.reduce(
                scratch.sum, to: scratch.residual, count: sumCount(pass), number: number, on: stream)
        }
    }

    /// Brings the other processes' logits to rank 0's GPU.
    func gatherLogits(_ pass: Pass) throws(CUDAError) {
        guard let group, let nccl = group.gpus?.nccl else { return }
        try exchange("gathering the logits") {
            try nccl.gather(
                rows: pass.logitsCount, of: scratch.logits, counts: group.logitsCounts, to: scratch.logits,
                on: stream.libraryHandle)
        }
    }

    private func exchange(_ name: String, _ body: () throws -> Void) throws(CUDAError) {
        try span(name) { () throws(CUDAError) in
            do {
                try body()
            } catch let error as CUDAError {
                throw error
            } catch {
                groupError = error as? CollectiveError
                throw CUDAError(.other, action: name, reason: "\(error)")
            }
        }
    }

    // MARK: Measuring

    /// The seconds of one sum over all processes within a step, `rowCount` rows of it; nil where it goes by way of CPU
    /// memory. All processes call it at the same time, between steps.
    func measureSums(rowCount: Int) throws(ModelError) -> Double? {
        guard let reducer else { return nil }
        precondition(rowCount <= rowCapacity, "GPULane: sums of \(rowCount) rows of \(rowCapacity)")
        let count = rowCount * configuration.hiddenSize
        if reducer.needsHost(count: count) { return nil }
        let sumCount = Self.sumsPerStep(configuration)
        let rounds = 20
        do {
            let start = try Event(context: context, isTimed: true)
            let end = try Event(context: context, isTimed: true)
            let graph = try Graph(capturing: stream) { () throws(CUDAError) in
                for number in 0..<sumCount {
                    try exchange("measuring sums") {
                        try reducer.reduce(
                            scratch.sum, to: scratch.residual, count: count, number: number, on: stream)
                    }
                }
            }.instantiate()
            for round in 0..<rounds {
                if round == rounds / 4 { try start.record(on: stream) }
                stepNumber &+= 1
                block.pointer(StepBlock.Layout.stepNumber, as: UInt32.self).pointee = stepNumber
                try stream.upload(block.input, to: scratch.step, byteCount: 4)
                try graph.launch(on: stream)
                // The word must stay until it is copied.
                try stream.synchronize()
            }
            try end.record(on: stream)
            try end.synchronize()
            let seconds = try end.elapsedMilliseconds(since: start) / 1e3
            return seconds / Double((rounds - rounds / 4) * sumCount)
        } catch {
            throw ModelError(loading: groupError ?? error)
        }
    }

    /// How sums of so many rows go, as a report says it; nil where there is but one process.
    public func sumsWay(rowCount: Int) -> String? {
        guard let group else { return nil }
        guard let gpus = group.gpus else { return "by way of CPU memory" }
        return rowCount * configuration.hiddenSize <= GPUExchange.mostCount
            ? gpus.smallSumsWay : gpus.libraryVersion
    }
}
