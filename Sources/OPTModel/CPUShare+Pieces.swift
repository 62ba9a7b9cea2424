import HostRuntime

/// The pieces of the processor's part of a block, and where their matrices are.
extension CPUShare {
    /// The matrices of some heads, neurons or rows, fp16.
    struct Matrices {
        /// Queries, keys and values, fc1, or rows of the token table: [n, inputs]
        var inputs: UnsafePointer<UInt16>
        /// Of `inputs`, fp32: [n]
        var bias: UnsafePointer<Float>?
        /// Output projection or fc2: [n, hidden]
        var outputs: UnsafePointer<UInt16>?
        /// Rows of `inputs` and `bias` from queries to keys, and from there to values.
        var stride = 0
    }

    static func pieces(inMemory: Range<Int>, _ onDisk: [[CPUPiece]], layerCount: Int) -> [[CPUPiece]] {
        let first = inMemory.isEmpty ? [] : [CPUPiece(range: inMemory, source: .memory)]
        return (0..<layerCount).map { first + (onDisk.isEmpty ? [] : onDisk[$0]) }
    }

    func pieceCount(_ block: Block) -> Int {
        switch block.kind {
        case .attention: attentionPieces[block.layer].count
        case .mlp: mlpPieces[block.layer].count
        case .logits: logitsPieces.count
        }
    }

    func piece(_ index: Int, of block: Block) -> CPUPiece {
        switch block.kind {
        case .attention: attentionPieces[block.layer][index]
        // Where they move, all of them lie in CPU memory.
        case .mlp:
            weights.boundary == nil
                ? mlpPieces[block.layer][index] : CPUPiece(range: neurons, source: .memory)
        case .logits: logitsPieces[index]
        }
    }

    /// A piece's matrices, as soon as they are in CPU memory; nil where the link is or becomes aborted.
    func matrices(of piece: CPUPiece, in block: Block, _ worker: Int) -> Matrices? {
        guard case .disk(let number, let biasOffset) = piece.source else {
            return matrices(piece.range, block)
        }
        let disk = weights.cpuDisk!
        var address: UnsafeRawPointer?
        // The leader sees the reader's errors, too.
        _ = link.wait(isGPUAtWork: { isStepAlive(worker) }) {
            address = disk.address(ofBlock: number)
            return address != nil
        }
        guard let address else { return nil }
        let inputs = address.assumingMemoryBound(to: UInt16.self)
        let rows = (block.kind == .attention ? configuration.headDimension : 1) * piece.range.count
        let inputRows = block.kind == .attention ? 3 * rows : rows
        return Matrices(
            inputs: inputs,
            bias: biasOffset.map { (address + $0).assumingMemoryBound(to: Float.self) },
            outputs: block.kind == .logits ? nil : inputs + inputRows * configuration.hiddenSize,
            stride: rows)
    }

    /// Gives the buffer of a piece from the disk back when all workers have computed with it.
    func giveBack(_ worker: Int, _ matrices: Matrices?) {
        barrier.wait()
        if worker == 0 && matrices != nil { weights.cpuDisk!.giveBack() }
    }

    /// Those that lie in CPU memory, behind what is streamed to the GPU from there.
    private func matrices(_ range: Range<Int>, _ block: Block) -> Matrices {
        switch block.kind {
        case .attention:
            let shard = weights.hostShards[block.layer]
            let attention = shard.attention
            let first = (range.lowerBound - shard.heads.lowerBound) * configuration.headDimension
            return Matrices(
                inputs: attention.qkv + first * configuration.hiddenSize,
                bias: attention.qkvBias.map { $0 + first },
                outputs: attention.output + first * configuration.hiddenSize,
                stride: shard.heads.count * configuration.headDimension)
        case .mlp:
            let shard = weights.hostShards[block.layer]
            let mlp = shard.mlp
            let first = range.lowerBound - shard.neurons.lowerBound
            return Matrices(
                inputs: mlp.fc1 + first * configuration.hiddenSize, bias: mlp.fc1Bias.map { $0 + first },
                outputs: mlp.fc2 + first * configuration.hiddenSize)
        case .logits:
            let table = weights.tokenTable
            let first = table.hostBase! + (range.lowerBound - table.host.lowerBound) * table.rowByteCount
            return Matrices(inputs: first.assumingMemoryBound(to: UInt16.self))
        }
    }
}
