import CUDAKernelImage
import Glibc

/// The operations as their formulas stand, in plain loops and double precision: what kernels are held against.
enum ScalarReference {
    /// The sum over i of x[i] · weights[i · stride], from two places on.
    static func product(
        _ x: [Float16], at xStart: Int, _ weights: [Float16], at start: Int, stride: Int, count: Int
    ) -> Double {
        var sum = 0.0
        var i = 0
        while i < count {
            sum += Double(x[xStart + i]) * Double(weights[start + i * stride])
            i += 1
        }
        return sum
    }

    /// `modeling_opt.py`'s activations: none, ReLU, and GELU in its exact form.
    static func activated(_ x: Double, _ activation: UInt32) -> Double {
        switch Int(activation) {
        case TANDEM_GPU_RELU: max(x, 0)
        case TANDEM_GPU_GELU: x * (1 + erf(x / 2.0.squareRoot())) / 2
        default: x
        }
    }

    /// (x − mean) / √(variance + ε) · weight + bias, of `width` elements from a place on.
    static func layerNorm(
        _ x: [Float], at start: Int, width: Int, weight: [Float]?, bias: [Float]?, epsilon: Float
    ) -> [Double] {
        var sum = 0.0
        for i in 0..<width { sum += Double(x[start + i]) }
        let mean = sum / Double(width)
        var squares = 0.0
        for i in 0..<width { squares += (Double(x[start + i]) - mean) * (Double(x[start + i]) - mean) }
        let scale = 1 / (squares / Double(width) + Double(epsilon)).squareRoot()
        return (0..<width).map { i in
            (Double(x[start + i]) - mean) * scale * Double(weight?[i] ?? 1) + Double(bias?[i] ?? 0)
        }
    }

    /// softmax(scale · q · keysᵀ) · values for one query over the first `count` positions; keys and values lie
    /// [position, dimension] from their places on.
    static func attention(
        _ query: [Float16], at queryStart: Int, cache: [Float16], keysAt: Int, valuesAt: Int, count: Int,
        dimension: Int, scale: Double
    ) -> [Double] {
        var weights = (0..<count).map { position in
            scale
                * product(
                    query, at: queryStart, cache, at: keysAt + position * dimension, stride: 1,
                    count: dimension)
        }
        let maximum = weights.max()!
        for position in 0..<count { weights[position] = exp(weights[position] - maximum) }
        let total = weights.reduce(0, +)
        return (0..<dimension).map { d in
            var sum = 0.0
            var position = 0
            while position < count {
                sum += weights[position] * Double(cache[valuesAt + position * dimension + d])
                position += 1
            }
            return sum / total
        }
    }
}

extension ScalarReference {
    /// A token, and how far the draw is from choosing another one, as a share of all probability.
    struct Choice {
        var token: Int32
        var margin: Double
    }

    /// The token that is chosen from a row of logits: temperature, top-k, top-p, then the candidate at which the running
    /// sum passes `uniform` of the total; likeliest first where top-k or top-p is used, else in the order of the
    /// vocabulary.
    static func choose(_ logits: [Float], _ choice: tandem_gpu_choice) -> Choice {
        var allowed = logits
        if choice.forbidden >= 0 { allowed[Int(choice.forbidden)] = -.infinity }
        var likeliest = 0
        for token in allowed.indices where allowed[token] > allowed[likeliest] { likeliest = token }
        if choice.temperature == 0 { return Choice(token: Int32(likeliest), margin: 1) }

        let maximum = Double(allowed[likeliest])
        let weights = allowed.map { exp((Double($0) - maximum) / Double(choice.temperature)) }
        guard choice.top_k > 0 || choice.top_p < 1 else {
            return pick(Array(weights.indices), weights, uniform: Double(choice.uniform), margin: 1)
        }
        let order = weights.indices.sorted {
            allowed[$0] == allowed[$1] ? $0 < $1 : allowed[$0] > allowed[$1]
        }
        let (count, margin) = keptCount(order.map { weights[$0] }, choice)
        var picked = pick(
            Array(order.prefix(count)), weights, uniform: Double(choice.uniform), margin: margin)
        // Equals have no order among the likeliest.
        let weight = weights[Int(picked.token)]
        if weights.count(where: { $0 == weight }) > 1 { picked.margin = 0 }
        return picked
    }

    /// How many of the weights, largest first, top-k and top-p leave, and how far that is from another number.
    private static func keptCount(_ weights: [Double], _ choice: tandem_gpu_choice) -> (Int, Double) {
        var count = weights.count
        var margin = 1.0
        if choice.top_k > 0 && Int(choice.top_k) < count {
            count = Int(choice.top_k)
            // Equals at the border may be kept or not.
            if weights[count] == weights[count - 1] { margin = 0 }
        }
        let total = weights.prefix(count).reduce(0, +)
        if choice.top_p < 1 {
            let wanted = Double(choice.top_p) * total
            var running = 0.0
            var kept = 0
            while kept < count && (kept == 0 || running < wanted) {
                if kept > 0 { margin = min(margin, (wanted - running) / total) }
                running += weights[kept]
                kept += 1
            }
            if kept < count { margin = min(margin, (running - wanted) / total) }
            count = kept
        }
        return (count, margin)
    }

    private static func pick(
        _ candidates: [Int], _ weights: [Double], uniform: Double, margin: Double
    ) -> Choice {
        var total = 0.0
        for token in candidates { total += weights[token] }
        let target = uniform * total
        var running = 0.0
        for (index, token) in candidates.enumerated() {
            let next = running + weights[token]
            if next > target || index + 1 == candidates.count {
                let nearest = min((target - running), (next - target)) / total
                return Choice(token: Int32(token), margin: min(margin, nearest))
            }
            running = next
        }
        preconditionFailure("ScalarReference: no candidates")
    }
}
