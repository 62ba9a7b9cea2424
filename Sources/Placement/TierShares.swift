/// How much of something is asked to lie on each tier, in percent of its bytes; the disk has what the others leave.
public struct TierShares: Sendable, Hashable {
    public let gpuPercent: Double
    public let cpuPercent: Double

    /// Sums that miss 100 by no more are taken for 100, as decimal fractions may not add up in binary.
    private static let tolerance = 1e-9

    /// Shares in percent, fractions allowed.
    ///
    /// Throws `invalidPercent` for a number that is negative, over 100 or none, and for two that are over 100 together.
    public init(gpuPercent: Double, cpuPercent: Double) throws(PlacementError) {
        try Self.checkPercent(gpuPercent, "the GPU's percentage")
        try Self.checkPercent(cpuPercent, "the CPU's percentage")
        guard gpuPercent + cpuPercent <= 100 + Self.tolerance else {
            throw PlacementError(
                .invalidPercent,
                "GPU \(gpuPercent.plainText) % and CPU \(cpuPercent.plainText) % are "
                    + "\((gpuPercent + cpuPercent).plainText) % together; give two that add up to 100 or less "
                    + "(what is missing lies on the disk)")
        }
        self.init(uncheckedGPU: gpuPercent, cpu: cpuPercent)
    }

    /// Shares that are known to be right.
    init(uncheckedGPU gpuPercent: Double, cpu cpuPercent: Double) {
        self.gpuPercent = gpuPercent
        self.cpuPercent = cpuPercent
    }

    public static let allOnGPU = TierShares(uncheckedGPU: 100, cpu: 0)
    public static let allOnCPU = TierShares(uncheckedGPU: 0, cpu: 100)
    public static let allOnDisk = TierShares(uncheckedGPU: 0, cpu: 0)

    /// What GPU and CPU leave.
    public var diskPercent: Double {
        let rest = 100 - gpuPercent - cpuPercent
        return rest <= Self.tolerance ? 0 : rest
    }

    /// What GPU and CPU have together; never below the GPU's, and 100 wherever nothing is on the disk.
    var residentPercent: Double { diskPercent == 0 ? 100 : gpuPercent + cpuPercent }

    public subscript(tier: Tier) -> Double {
        switch tier {
        case .gpu: gpuPercent
        case .cpu: cpuPercent
        case .disk: diskPercent
        }
    }

    /// Throws `invalidPercent` unless 0 ≤ `percent` ≤ 100.
    static func checkPercent(_ percent: Double, _ name: String) throws(PlacementError) {
        guard percent >= 0, percent <= 100 else {
            throw PlacementError(
                .invalidPercent, "\(name) is \(percent.plainText); give a number from 0 to 100")
        }
    }
}
