/// Both that the processor can do in decode steps: its share of every block, and attention over the cache in CPU memory of
/// heads that the GPU computes.
///
/// In a layer's attention the threads do their own share first, then the exchanges of the GPU's pieces: the GPU comes to
/// these only after it has computed queries, keys and values.
final class CPUShareAndCache: CPUPart {
    let share: CPUShare
    let attention: CPUCacheAttention

    init(_ share: CPUShare, _ attention: CPUCacheAttention) {
        self.share = share
        self.attention = attention
    }

    /// Aborted together with the other one.
    var link: LaneLink { share.link }
    var workers: CPUWorkers { share.workers }

    var isGPUAtWork: @Sendable () -> Bool {
        get { share.isGPUAtWork }
        set {
            share.isGPUAtWork = newValue
            attention.isGPUAtWork = newValue
        }
    }

    func begin(_ batch: StepBatch, cache: GPUKVCache, step number: UInt32, timeline: Timeline?) {
        share.begin(batch, cache: cache, step: number, timeline: timeline)
        attention.begin(batch, cache: cache, step: number, timeline: timeline)
    }

    var layerCount: Int { share.layerCount }

    func run(worker: Int, layers: Range<Int>) {
        for layer in layers {
            if let block = share.attention(layer: layer) { share.take(block, worker) }
            attention.run(layer: layer, worker: worker)
            if let block = share.mlp(layer: layer) { share.take(block, worker) }
        }
        if layers.upperBound == layerCount, let block = share.logits { share.take(block, worker) }
    }

    func leave() { share.leave() }
}
