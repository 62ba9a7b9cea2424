/// Where the tensors of a range of one layer's heads and neurons lie in the memory of a shard, in bytes from its start.
struct LayerShardLayout {
    var slots = SlotLayout()
    let matrices: LayerMatrixOffsets
    let qkvBias: Int?
    let vectors: LayerVectorOffsets

    init(_ tensors: OPTTensors, layer: Int, heads: Range<Int>, neurons: Range<Int>) {
        matrices = LayerMatrixOffsets(&slots, tensors, layer: layer, heads: heads, neurons: neurons)
        qkvBias = slots.qkvBias(tensors, layer: layer, heads: heads)
        vectors = LayerVectorOffsets(&slots, tensors, layer: layer, neurons: neurons)
    }
}

/// Where the matrices of a range of a layer's heads and neurons lie.
struct LayerMatrixOffsets {
    /// [3, n, hidden] and [n, hidden], for the n rows of the heads, in the forms that the configuration says.
    let qkv, output: Int
    /// [n, hidden] each, for n neurons.
    let fc1, fc2: Int

    init(
        _ slots: inout SlotLayout, _ tensors: OPTTensors, layer: Int, heads: Range<Int>, neurons: Range<Int>
    ) {
        let rows = tensors.rows(of: heads)
        qkv = slots.qkv(tensors, layer: layer, heads: heads)
        output = slots.output(tensors, layer: layer, rows: rows)
        fc1 = slots.fc1(tensors, layer: layer, neurons: neurons)
        fc2 = slots.fc2(tensors, layer: layer, neurons: neurons)
    }
}

/// Where a layer's vectors lie, but for the biases of queries, keys and values; nil where the model has none.
struct LayerVectorOffsets {
    let outputBias, fc1Bias, fc2Bias: Int?
    let attentionNormWeight, attentionNormBias, mlpNormWeight, mlpNormBias: Int?

    /// - Parameter neurons: whose biases of fc1 are there.
    init(_ slots: inout SlotLayout, _ tensors: OPTTensors, layer: Int, neurons: Range<Int>) {
        outputBias = slots.vector(tensors.projectionBias(.output, layer: layer))
        fc1Bias = slots.vector(tensors.fc1Bias(layer: layer), elements: neurons)
        fc2Bias = slots.vector(tensors.fc2Bias(layer: layer))
        attentionNormWeight = slots.vector(tensors.attentionLayerNorm(.weight, layer: layer))
        attentionNormBias = slots.vector(tensors.attentionLayerNorm(.bias, layer: layer))
        mlpNormWeight = slots.vector(tensors.mlpLayerNorm(.weight, layer: layer))
        mlpNormBias = slots.vector(tensors.mlpLayerNorm(.bias, layer: layer))
    }
}

extension OPTTensors {
    /// The rows of the query, key and value projections that make up a range of heads.
    func rows(of heads: Range<Int>) -> Range<Int> {
        heads.lowerBound * configuration.headDimension..<heads.upperBound * configuration.headDimension
    }
}

extension SlotLayout {
    /// Reserves room for the heads' queries, keys and values as one matrix, and returns its offset in bytes.
    mutating func qkv(_ tensors: OPTTensors, layer: Int, heads: Range<Int>) -> Int {
        let rows = tensors.rows(of: heads)
        let form = tensors.configuration.qkvForm
        let offset = matrix(tensors.projectionWeight(.query, layer: layer), form, rows)
        joinNext()
        _ = matrix(tensors.projectionWeight(.key, layer: layer), form, rows)
        joinNext()
        _ = matrix(tensors.projectionWeight(.value, layer: layer), form, rows)
        return offset
    }

    /// The same for the output projection of the heads' rows, and for neurons.
    mutating func output(_ tensors: OPTTensors, layer: Int, rows: Range<Int>) -> Int {
        matrix(tensors.projectionWeight(.output, layer: layer), tensors.configuration.outputForm, rows)
    }

    mutating func fc1(_ tensors: OPTTensors, layer: Int, neurons: Range<Int>) -> Int {
        matrix(tensors.fc1Weight(layer: layer), tensors.configuration.fc1Form, neurons)
    }

    mutating func fc2(_ tensors: OPTTensors, layer: Int, neurons: Range<Int>) -> Int {
        matrix(tensors.fc2Weight(layer: layer), tensors.configuration.fc2Form, neurons)
    }

    /// Reserves room for the biases of the heads' queries, keys and values as one vector; nil where there are none.
    ///
    /// That of the keys is zero where the cache has 4 bits: it adds the same number to all scores of a query, which softmax
    /// takes away again, and it would widen the range that a group's codes have to span.
    mutating func qkvBias(_ tensors: OPTTensors, layer: Int, heads: Range<Int>) -> Int? {
        let rows = tensors.rows(of: heads)
        guard let offset = vector(tensors.projectionBias(.query, layer: layer), elements: rows) else {
            return nil
        }
        joinNext()
        let keyBias = tensors.projectionBias(.key, layer: layer)
        _ =
            tensors.configuration.hasQuantizedCache
            ? zeros(inPlaceOf: keyBias, elements: rows) : vector(keyBias, elements: rows)
        joinNext()
        _ = vector(tensors.projectionBias(.value, layer: layer), elements: rows)
        return offset
    }
}
