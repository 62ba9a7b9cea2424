/// An axis from 0 with round ticks.
struct ChartAxis {
    /// From 0 to the axis's end, at most seven.
    let ticks: [Double]

    var end: Double { ticks.last! }

    /// The shortest axis of round steps that has room for `most`, which is positive and finite.
    init(upTo most: Double) {
        precondition(most > 0 && most.isFinite, "ChartAxis: \(most)")
        var power = 1.0
        while power * 10 <= most { power *= 10 }
        while power > most { power /= 10 }
        // From a tenth of the power on, so that the first that fits is the finest.
        let steps = [0.1, 0.2, 0.25, 0.5, 1, 2].map { $0 * power }
        let step = steps.first { most / $0 <= 6 } ?? 2 * power
        let count = Int((most / step).rounded(.up))
        ticks = (0...max(1, count)).map { Double($0) * step }
    }
}
