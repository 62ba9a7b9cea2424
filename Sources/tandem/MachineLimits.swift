import Engine
import Placement

/// What the machine sustained, measured in the run that it is compared with, or remembered where that was asked for; nil
/// for what the run does not use.
struct MachineLimits: Codable {
    /// A plain loop over CPU memory, in order: over the weights where the CPU computes alone.
    var readBytesPerSecond: Double?
    /// Several streams side by side.
    var fastestReadBytesPerSecond: Double?
    var multiplyAddOperationsPerSecond: Double?
    var barrierSeconds: Double?
    /// A plain kernel over GPU memory.
    var gpuReadBytesPerSecond: Double?
    /// Copies from pinned CPU memory to the GPU.
    var uploadBytesPerSecond: Double?
    /// CPU memory read by the fastest loop, and copied from to the GPU, at the same time.
    var readTogetherBytesPerSecond: Double?
    var uploadTogetherBytesPerSecond: Double?
    /// Direct reads of what lies on disk.
    var diskReadBytesPerSecond: Double?

    /// What CPU memory gives to reading and copying together.
    var togetherBytesPerSecond: Double? {
        guard let readTogetherBytesPerSecond, let uploadTogetherBytesPerSecond else { return nil }
        return readTogetherBytesPerSecond + uploadTogetherBytesPerSecond
    }
}

extension MachineLimits {
    init(measuredBy profiler: HardwareProfiler) async throws {
        gpuReadBytesPerSecond = try await profiler.gpuMemoryReadRate()
        if gpuReadBytesPerSecond != nil {
            uploadBytesPerSecond = try await profiler.uploadRate()
            diskReadBytesPerSecond = try await profiler.diskReadRate()
            let host = try await profiler.hostRatesBesideGPU()
            readBytesPerSecond = host?.readAlone
            fastestReadBytesPerSecond = host?.fastestReadAlone
            readTogetherBytesPerSecond = host?.readTogether
            uploadTogetherBytesPerSecond = host?.uploadTogether
        } else {
            readBytesPerSecond = try await profiler.readRate()
            fastestReadBytesPerSecond = try await profiler.fastestReadRate()
            multiplyAddOperationsPerSecond = try await profiler.multiplyAddPeak()
            barrierSeconds = try await profiler.barrierSeconds()
        }
    }

    /// What is remembered of the machine.
    init(of profile: HardwareProfile, onGPU: Bool) {
        if onGPU {
            gpuReadBytesPerSecond = profile.gpu?.memoryReadBytesPerSecond
            uploadBytesPerSecond = profile.gpu?.uploadBytesPerSecond
            diskReadBytesPerSecond = profile.diskReadBytesPerSecond
            readTogetherBytesPerSecond = profile.together?.memoryReadBytesPerSecond
            uploadTogetherBytesPerSecond = profile.together?.uploadBytesPerSecond
        }
        readBytesPerSecond = profile.processor.memoryReadBytesPerSecond
    }

    /// A machine whose CPU memory gives what it gave here.
    func applied(to profile: HardwareProfile) -> HardwareProfile {
        var profile = profile
        profile.take(
            readAlone: fastestReadBytesPerSecond, readTogether: readTogetherBytesPerSecond,
            upload: uploadTogetherBytesPerSecond)
        return profile
    }

    init(medianOf samples: [MachineLimits]) {
        func median(_ value: (MachineLimits) -> Double?) -> Double? {
            samples.compactMap(value).median
        }
        self.init(
            readBytesPerSecond: median(\.readBytesPerSecond),
            fastestReadBytesPerSecond: median(\.fastestReadBytesPerSecond),
            multiplyAddOperationsPerSecond: median(\.multiplyAddOperationsPerSecond),
            barrierSeconds: median(\.barrierSeconds),
            gpuReadBytesPerSecond: median(\.gpuReadBytesPerSecond),
            uploadBytesPerSecond: median(\.uploadBytesPerSecond),
            readTogetherBytesPerSecond: median(\.readTogetherBytesPerSecond),
            uploadTogetherBytesPerSecond: median(\.uploadTogetherBytesPerSecond),
            diskReadBytesPerSecond: median(\.diskReadBytesPerSecond))
    }
}

/// How many bytes a decode step moves through a resource, and how near to its limit that is.
struct ResourceUse: Codable {
    var resource: String
    var bytesPerStep: Int
    var bytesPerSecond: Double
    var sustainedBytesPerSecond: Double
    var shareOfSustained: Double

    /// nil where nothing was moved or the limit is not known.
    init?(_ resource: String, bytesPerStep: Int, stepSeconds: Double, sustained: Double?) {
        guard bytesPerStep > 0, stepSeconds > 0, let sustained else { return nil }
        self.resource = resource
        self.bytesPerStep = bytesPerStep
        bytesPerSecond = Double(bytesPerStep) / stepSeconds
        sustainedBytesPerSecond = sustained
        shareOfSustained = bytesPerSecond / sustained
    }
}
