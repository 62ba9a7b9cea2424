/// Where the tensors of a range of one layer's heads and neurons lie in the memory of a shard, in bytes from its start.
struct LayerShardLayout {
    var slots = SlotLayout()
    let attentionNormWeight, attentionNormBias, qkvBias, outputBias: Int?
    let qkv, output, fc1, fc2: Int
    let mlpNormWeight, mlpNormBias, fc1Bias, fc2Bias: Int?

    init(_ tensors: OPTTensors, layer: Int, heads: Range<Int>, neurons: Range<Int>) {
        let headDimension = tensors.configuration.headDimension
        let rows = heads.lowerBound * headDimension..<heads.upperBound * headDimension
        qkv = slots.matrix(tensors.projectionWeight(.query, layer: layer), rows: rows)
        slots.joinNext()
        _ = slots.matrix(tensors.projectionWeight(.key, layer: layer), rows: rows)
        slots.joinNext()
        _ = slots.matrix(tensors.projectionWeight(.value, layer: layer), rows: rows)
        output = slots.transposedMatrix(tensors.projectionWeight(.output, layer: layer), columns: rows)
        fc1 = slots.matrix(tensors.fc1Weight(layer: layer), rows: neurons)
        fc2 = slots.transposedMatrix(tensors.fc2Weight(layer: layer), columns: neurons)
        qkvBias = slots.vector(tensors.projectionBias(.query, layer: layer), elements: rows)
        if qkvBias != nil {
            slots.joinNext()
            _ = slots.vector(tensors.projectionBias(.key, layer: layer), elements: rows)
            slots.joinNext()
            _ = slots.vector(tensors.projectionBias(.value, layer: layer), elements: rows)
        }
        outputBias = slots.vector(tensors.projectionBias(.output, layer: layer))
        fc1Bias = slots.vector(tensors.fc1Bias(layer: layer), elements: neurons)
        fc2Bias = slots.vector(tensors.fc2Bias(layer: layer))
        attentionNormWeight = slots.vector(tensors.attentionLayerNorm(.weight, layer: layer))
        attentionNormBias = slots.vector(tensors.attentionLayerNorm(.bias, layer: layer))
        mlpNormWeight = slots.vector(tensors.mlpLayerNorm(.weight, layer: layer))
        mlpNormBias = slots.vector(tensors.mlpLayerNorm(.bias, layer: layer))
    }
}
