/// The percentages asked and got, as lines of a report.
extension Placement {
    /// One line for each kind of layer and one for the cache.
    ///
    /// A line has the percentage asked of every tier and, where there is something, the one got:
    /// "self-attention     weights GPU 30 % (29.7 %, 19 of 64 heads) · CPU 70 % (70.3 %) · disk 0 %". Where the GPU does
    /// not compute everything, its share of the computation follows.
    public var reportLines: [String] {
        let kinds: [(LayerKind, unit: String)] = [
            (.inputEmbedding, "positions"), (.outputEmbedding, "vocabulary rows"), (.attention, "heads"),
            (.mlp, "neurons"),
        ]
        var lines = kinds.map { kind, unit in
            let layer = self[kind]
            var line = Self.label(kind.label) + "weights " + Self.text(layer.weights, unit: unit)
            if layer.askedComputationPercent < 100 {
                let got = layer.gotComputationPercent.text(decimals: 1)
                line += " · computation GPU \(layer.askedComputationPercent.plainText) % "
                line += "(\(got) %, \(layer.gpuComputed.count) of \(layer.count) \(unit))"
            }
            return line
        }
        lines.append(Self.label("KV cache") + "        " + Self.text(cacheHeads, unit: "heads"))
        return lines
    }

    /// Who computes attention of decode steps over the cache in CPU memory; nil where none lies there, and the CPU was
    /// not asked to.
    public func cacheComputationLine(isAskedOfCPU: Bool) -> String? {
        // What the CPU computes with heads, it computes where their cache is.
        if !cacheHeads.cpu.clamped(to: attention.gpuComputed).isEmpty {
            return "attention over the cache in CPU memory: "
                + (isAskedOfCPU ? "decode on the CPU, prefill on the GPU" : "on the GPU, over PCIe")
        }
        return isAskedOfCPU ? "--cpu-cache-compute has no effect: no cache lies in CPU memory" : nil
    }

    private static func label(_ text: String) -> String {
        let width = 2 + LayerKind.allCases.map(\.label.count).max()!
        return text + String(repeating: " ", count: width - text.count)
    }

    private static func text(_ split: RangeSplit, unit: String) -> String {
        Tier.allCases.map { tier in
            var text = "\(tier.label) \(split.asked[tier].plainText) %"
            guard split.asked[tier] > 0 || !split[tier].isEmpty else { return text }
            text += " (\(split.gotPercent(tier).text(decimals: 1)) %"
            if tier == .gpu { text += ", \(split.gpu.count) of \(split.count) \(unit)" }
            return text + ")"
        }.joined(separator: " · ")
    }
}
