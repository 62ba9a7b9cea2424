/// Where bytes live: the memory of the GPU, the memory of the CPU, or the disk.
public enum Tier: String, Sendable, Hashable, CaseIterable {
    case gpu
    case cpu
    case disk

    /// The tier's column in a report.
    public var label: String {
        switch self {
        case .gpu: "GPU"
        case .cpu: "CPU"
        case .disk: "disk"
        }
    }

    /// The tier as the subject of a sentence.
    var noun: String {
        switch self {
        case .gpu: "the GPU"
        case .cpu: "CPU memory"
        case .disk: "the disk"
        }
    }
}
