import Placement
import SystemPackage

@testable import Engine

extension HardwareProfile {
    /// Made-up rates of this machine, as its programs find them in a cache folder: nothing is measured then.
    @discardableResult
    static func rememberMadeUp(memoryReadBytesPerSecond: Double, in cacheFolder: FilePath) throws
        -> HardwareProfile
    {
        let machine = Machine.current
        let gpu = machine.gpuName.map {
            GPU(
                name: $0, memoryByteCount: 1 << 34, multiprocessorCount: 1, driverVersion: nil,
                rates: .init(memoryRead: 1e12, upload: 1e9, download: 1e9))
        }
        let profile = HardwareProfile(
            gpu: gpu,
            processor: Processor(
                name: machine.processorName, coreCount: machine.coreCount, instructionSet: "avx2",
                memoryReadBytesPerSecond: memoryReadBytesPerSecond), diskReadBytesPerSecond: nil,
            together: gpu.map { _ in .init(memoryReadBytesPerSecond: 1e9, uploadBytesPerSecond: 1e9) },
            date: "2026-01-02T03:04:05Z")
        try profile.remember(in: cacheFolder.appending("tandem/hardware-profile.json"))
        return profile
    }
}
