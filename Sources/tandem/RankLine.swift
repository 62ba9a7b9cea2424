import Engine
import Placement

extension RankReport {
    /// In one line.
    var line: String {
        let computing = gpuName ?? "\(processorCount) \(processorCount == 1 ? "processor" : "processors")"
        var line =
            "rank \(place.rank) of \(place.size), local rank \(place.localRank) on \(hostName): \(computing)   weights: "
            + "\(weightByteCount.byteSize(decimals: 3))   peak CPU memory: "
            + (peakMemoryByteCount.map { $0.byteSize(decimals: 3) } ?? "unknown")
        if let gpuMemoryByteCount {
            line += "   GPU memory in use: \(gpuMemoryByteCount.byteSize(decimals: 3))"
        }
        return line
    }
}
