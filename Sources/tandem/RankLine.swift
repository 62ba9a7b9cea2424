import Engine
import Placement

extension RankReport {
    /// In one line.
    var line: String {
        let computing = gpuName ?? "\(processorCount) \(processorCount == 1 ? "processor" : "processors")"
        var line =
            "rank \(place.rank) of \(place.size), local rank \(place.localRank) on \(hostName): \(computing)   weights: "
            + "\(Self.gibibytes(weightByteCount))   peak CPU memory: "
            + (peakMemoryByteCount.map(Self.gibibytes) ?? "unknown")
        if let gpuMemoryByteCount { line += "   GPU memory in use: \(Self.gibibytes(gpuMemoryByteCount))" }
        return line
    }

    private static func gibibytes(_ count: Int) -> String {
        (Double(count) / Double(1 << 30)).formatted(decimals: 3) + " GiB"
    }
}
