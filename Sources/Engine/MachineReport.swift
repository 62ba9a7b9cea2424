import OPTModel
import Placement

/// What a machine has, what it sustains, whether its GPU computes what it should, and which models it has room for.
public struct MachineReport: Sendable, Codable {
    /// nil where there is none that Tandem can use.
    public var gpu: GPU?
    /// Why there is none, in a sentence.
    public var gpuProblem: String?
    /// A GPU or its driver is there, and something is wrong with it.
    public var isGPUBroken = false
    public var processor: Processor
    public var libraries: [SystemLibrary]
    /// nil where nothing could be measured.
    public var profile: HardwareProfile?
    public var isProfileRemembered = false
    /// What could not be measured or remembered, a sentence each.
    public var notes: [String] = []
    /// How many checks of the GPU's operations there are; some were not done where one stopped the GPU.
    public var checkCount = 0
    public var checks: [GPUOperationResult] = []
    public var models: [ModelFit] = []
    /// Whether a GPU, where one is there, works.
    public var isWell = true
    /// All of it in a few sentences.
    public var verdict = ""

    public struct GPU: Sendable, Hashable, Codable {
        public var name: String
        /// Such as "9.0".
        public var computeCapability: String
        public var multiprocessorCount: Int
        public var memoryByteCount: Int
        /// What other programs leave.
        public var freeByteCount: Int
        /// nil where the system does not tell.
        public var driverVersion: String?
        /// The CUDA version that the driver offers, such as "12.4".
        public var cudaVersion: String
    }

    public struct Processor: Sendable, Hashable, Codable {
        public var name: String
        public var coreCount: Int
        public var instructionSet: String
        /// nil where the system does not tell.
        public var availableByteCount: Int?
    }

    public var passedCheckCount: Int { checks.count { $0.passed } }
    public var failedChecks: [GPUOperationResult] { checks.filter { !$0.passed } }
}

extension MachineReport {
    /// The verdict on what the other fields say.
    mutating func judge() {
        isWell = !isGPUBroken && failedChecks.isEmpty && checks.count == checkCount
        var sentences: [String] = []
        if gpu == nil {
            sentences.append(
                isGPUBroken
                    ? "The GPU cannot be used, and Tandem computes on the CPU: \(gpuProblem ?? "unknown")."
                    : "There is no GPU here: Tandem computes on the CPU.")
        } else if let gpuProblem {
            sentences.append("The GPU does not work as it should: \(gpuProblem).")
        } else if isWell {
            sentences.append("Everything works.")
        } else {
            let count = failedChecks.count
            sentences.append(
                "\(count) \(count == 1 ? "operation" : "operations") of the GPU went wrong: do not trust what it "
                    + "computes. Compute on the CPU (--device cpu), and report the failures above.")
            if checks.count < checkCount {
                let count = checkCount - checks.count
                sentences.append(
                    "The GPU stopped, and \(count) \(count == 1 ? "check was" : "checks were") not done.")
            }
        }
        sentences.append(roomSentence)
        verdict = sentences.joined(separator: " ")
    }

    /// "OPT-125m to OPT-13b fit into the GPU; OPT-30b needs CPU memory too; …".
    private var roomSentence: String {
        let parts: [(place: ModelFit.Place, one: String, several: String)] =
            gpu == nil
            ? [
                (.cpuMemory, "fits into CPU memory", "fit into CPU memory"),
                (.nowhere, "does not fit", "do not fit"),
            ]
            : [
                (.gpu, "fits into the GPU", "fit into the GPU"),
                (.cpuMemory, "needs CPU memory too", "need CPU memory too"),
                (.disk, "needs the disk too", "need the disk too"),
                (.nowhere, "does not fit", "do not fit"),
            ]
        let clauses = parts.compactMap { part -> String? in
            let names = models.filter { $0.place == part.place }.map {
                "OPT-" + ($0.model.hasPrefix("opt-") ? String($0.model.dropFirst(4)) : $0.model)
            }
            guard let first = names.first, let last = names.last else { return nil }
            switch names.count {
            case 1: return "\(first) \(part.one)"
            case 2: return "\(first) and \(last) \(part.several)"
            default: return "\(first) to \(last) \(part.several)"
            }
        }
        return clauses.isEmpty ? "" : clauses.joined(separator: "; ") + "."
    }
}
