/// What a machine is and what its memories, its PCIe and its disk sustain, as it was measured: what a plan is made from.
public struct HardwareProfile: Sendable, Hashable, Codable {
    /// nil where there is none.
    public var gpu: GPU?
    public var processor: Processor
    /// Direct reads of the offload folder's disk; nil where they could not be measured.
    public var diskReadBytesPerSecond: Double?
    /// nil without a GPU.
    public var together: Together?
    /// When it was measured: UTC, as ISO 8601 writes it.
    public var date: String

    public init(
        gpu: GPU?, processor: Processor, diskReadBytesPerSecond: Double?, together: Together?, date: String
    ) {
        self.gpu = gpu
        self.processor = processor
        self.diskReadBytesPerSecond = diskReadBytesPerSecond
        self.together = together
        self.date = date
    }

    public struct GPU: Sendable, Hashable, Codable {
        public var name: String
        public var memoryByteCount: Int
        public var multiprocessorCount: Int
        /// Such as 535.161.08; nil where the system does not tell.
        public var driverVersion: String?
        /// A plain kernel that reads GPU memory.
        public var memoryReadBytesPerSecond: Double
        /// Copies from pinned CPU memory to the GPU.
        public var uploadBytesPerSecond: Double
        /// Copies from the GPU to pinned CPU memory.
        public var downloadBytesPerSecond: Double

        public init(
            name: String, memoryByteCount: Int, multiprocessorCount: Int, driverVersion: String?,
            rates: Rates
        ) {
            self.name = name
            self.memoryByteCount = memoryByteCount
            self.multiprocessorCount = multiprocessorCount
            self.driverVersion = driverVersion
            memoryReadBytesPerSecond = rates.memoryRead
            uploadBytesPerSecond = rates.upload
            downloadBytesPerSecond = rates.download
        }

        /// Bytes a second.
        public struct Rates: Sendable {
            public var memoryRead: Double
            public var upload: Double
            public var download: Double

            public init(memoryRead: Double, upload: Double, download: Double) {
                self.memoryRead = memoryRead
                self.upload = upload
                self.download = download
            }
        }
    }

    public struct Processor: Sendable, Hashable, Codable {
        public var name: String
        /// Those that the process may use.
        public var coreCount: Int
        public var instructionSet: String
        /// All cores reading CPU memory as fast as they can.
        public var memoryReadBytesPerSecond: Double

        public init(
            name: String, coreCount: Int, instructionSet: String, memoryReadBytesPerSecond: Double
        ) {
            self.name = name
            self.coreCount = coreCount
            self.instructionSet = instructionSet
            self.memoryReadBytesPerSecond = memoryReadBytesPerSecond
        }
    }

    /// CPU memory read by all cores, and copied from to the GPU, at the same time.
    public struct Together: Sendable, Hashable, Codable {
        public var memoryReadBytesPerSecond: Double
        public var uploadBytesPerSecond: Double
        /// Of one join of both lanes, with nothing to compute; nil where it was not measured.
        public var joinSeconds: Double?

        public init(
            memoryReadBytesPerSecond: Double, uploadBytesPerSecond: Double, joinSeconds: Double? = nil
        ) {
            self.memoryReadBytesPerSecond = memoryReadBytesPerSecond
            self.uploadBytesPerSecond = uploadBytesPerSecond
            self.joinSeconds = joinSeconds
        }
    }
}

extension HardwareProfile {
    /// What a profile is remembered by: the GPU, the processor and its cores.
    public struct Machine: Sendable, Hashable {
        public var gpuName: String?
        public var processorName: String
        public var coreCount: Int

        public init(gpuName: String?, processorName: String, coreCount: Int) {
            self.gpuName = gpuName
            self.processorName = processorName
            self.coreCount = coreCount
        }

        /// "NVIDIA H200 + AMD EPYC 9654 x 96".
        public var key: String { "\(gpuName ?? "no GPU") + \(processorName) x \(coreCount)" }
    }

    public var machine: Machine {
        Machine(gpuName: gpu?.name, processorName: processor.name, coreCount: processor.coreCount)
    }

    /// Whether every figure can be one: positive and finite, and those of a GPU there just where one is.
    public var isPlausible: Bool {
        let rates = [
            processor.memoryReadBytesPerSecond, diskReadBytesPerSecond, gpu?.memoryReadBytesPerSecond,
            gpu?.uploadBytesPerSecond, gpu?.downloadBytesPerSecond, together?.memoryReadBytesPerSecond,
            together?.uploadBytesPerSecond, together?.joinSeconds,
        ].compactMap { $0 }
        let counts = [processor.coreCount, gpu?.memoryByteCount, gpu?.multiprocessorCount].compactMap { $0 }
        return rates.allSatisfy { $0 > 0 && $0.isFinite } && counts.allSatisfy { $0 > 0 }
            && (gpu == nil) == (together == nil)
    }
}
