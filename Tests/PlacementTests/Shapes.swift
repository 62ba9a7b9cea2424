import Placement

extension ModelShape {
    /// The published sizes, smallest first.
    static let published: [ModelShape] = [
        (12, 12, 768), (24, 16, 1024), (24, 32, 2048), (32, 32, 2560), (32, 32, 4096), (40, 40, 5120),
        (48, 56, 7168), (64, 72, 9216), (96, 96, 12288),
    ].map { layers, heads, hidden in
        var shape = ModelShape(
            layerCount: layers, headCount: heads, headDimension: hidden / heads, hiddenSize: hidden,
            feedForwardSize: 4 * hidden, vocabularySize: 50272)
        if hidden == 1024 {
            shape.embeddingSize = 512
            shape.hasFinalLayerNorm = false
        }
        return shape
    }

    static let opt125M = published[0]
    static let opt350M = published[1]
    static let opt1_3B = published[2]
    static let opt6_7B = published[4]
    static let opt13B = published[5]
    static let opt30B = published[6]
    static let opt66B = published[7]
    static let opt175B = published[8]
}

extension PlacementRequest {
    /// All kinds alike, in percent on GPU and CPU.
    static func alike(_ gpu: Double, _ cpu: Double, cache: [Double]? = nil) throws -> PlacementRequest {
        try PlacementRequest(
            perLayerPercent: [gpu, cpu, gpu, cpu, gpu, cpu, gpu, cpu], cachePercent: cache)
    }
}

/// The error that `body` throws.
func placementError(_ body: () throws -> Void) -> PlacementError? {
    do {
        try body()
    } catch let error as PlacementError {
        return error
    } catch {}
    return nil
}
