/// A range of heads, neurons or rows, cut into three contiguous parts: GPU, then CPU, then disk.
///
/// **The rule.** Not the sizes are rounded but the two boundaries: the first lies at the GPU's share, the second at the
/// shares of GPU and CPU together, each moved to the nearest whole unit (upwards from the middle). Therefore
///  - the parts always add up: no unit is lost or invented; a share of 0 % gets nothing and 100 % everything;
///  - a boundary is off by half a unit at most, a part by less than one (a share of less than half a unit may get none);
///  - the GPU's part depends on the GPU's percentage alone and grows with it, so that what lies on the GPU is always
///    within what the GPU computes where its percentage is.
///
/// Where the count is no multiple of the unit, the last unit is smaller.
public struct RangeSplit: Sendable, Hashable {
    /// The shares asked.
    public let asked: TierShares
    public let gpu: Range<Int>
    public let cpu: Range<Int>
    public let disk: Range<Int>

    /// Cuts 0..<`count` at multiples of `unit`.
    public init(_ asked: TierShares, count: Int, unit: Int = 1) {
        let first = Self.boundary(percent: asked.gpuPercent, count: count, unit: unit)
        let second = Self.boundary(percent: asked.residentPercent, count: count, unit: unit)
        self.asked = asked
        gpu = 0..<first
        cpu = first..<second
        disk = second..<count
    }

    /// The heads, neurons or rows of all three parts.
    public var count: Int { disk.upperBound }

    public subscript(tier: Tier) -> Range<Int> {
        switch tier {
        case .gpu: gpu
        case .cpu: cpu
        case .disk: disk
        }
    }

    /// The percentage that `tier` got; that asked where there is nothing to divide.
    public func gotPercent(_ tier: Tier) -> Double {
        count == 0 ? asked[tier] : 100 * Double(self[tier].count) / Double(count)
    }

    /// The multiple of `unit`, or `count` itself, that is nearest to `percent` of `count`; the upper of two as near.
    static func boundary(percent: Double, count: Int, unit: Int) -> Int {
        precondition(count >= 0 && unit > 0, "\(count) in units of \(unit)")
        precondition(percent >= 0 && percent <= 100, "\(percent) %")
        // Multiplied first, so that whole percentages of whole numbers are exact.
        let target = Double(count) * percent / 100
        let lower = min(Int(target) / unit * unit, count)
        let upper = min(lower + unit, count)
        return Double(upper) - target <= target - Double(lower) ? upper : lower
    }
}
