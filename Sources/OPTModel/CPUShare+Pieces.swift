import HostRuntime

/// The pieces of the processor's part of a block, and where their matrices are.
extension CPUShare {
    /// The matrices of some heads, neurons or rows.
    struct Matrices {
        /// Queries, keys and values, fc1, or rows of the token table: [n, inputs]
        var inputs: LayerMatrix
        /// Of `inputs`, fp32: [n]
        var bias: UnsafePointer<Float>?
        /// Output projection or fc2: [n, hidden]
        var outputs: LayerMatrix?
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
        let form =
            block.kind == .logits
            ? MatrixForm(.byOutputs, width: configuration.embeddingSize, nil) : configuration.qkvForm
        let inputs = LayerMatrix(base: address, form: form)
        let rows = (block.kind == .attention ? configuration.headDimension : 1) * piece.range.count
        let inputRows = block.kind == .attention ? 3 * rows : rows
        return Matrices(
            inputs: inputs,
            bias: biasOffset.map { (address + $0).assumingMemoryBound(to: Float.self) },
            outputs: block.kind == .logits
                ? nil
                : LayerMatrix(
                    base: address + form.byteCount(inputRows),
                    form: block.kind == .attention ? configuration.outputForm : configuration.fc2Form),
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
                inputs: attention.qkv.from(first),
                bias: attention.qkvBias.map { $0 + first },
                outputs: attention.output.from(first),
                stride: shard.heads.count * configuration.headDimension)
        case .mlp:
            let shard = weights.hostShards[block.layer]
            let mlp = shard.mlp
            let first = range.lowerBound - shard.neurons.lowerBound
            return Matrices(
                inputs: mlp.fc1.from(first), bias: mlp.fc1Bias.map { $0 + first },
                outputs: mlp.fc2.from(first))
        case .logits:
            let table = weights.tokenTable
            let first = table.hostBase! + (range.lowerBound - table.host.lowerBound) * table.rowByteCount
            return Matrices(
                inputs: LayerMatrix(
                    base: first, form: MatrixForm(.byOutputs, width: configuration.embeddingSize, nil)))
        }
    }
}
