import Foundation
import Placement
import Testing

struct HardwareProfileTests {
    static let profile = HardwareProfile(
        gpu: HardwareProfile.GPU(
            name: "NVIDIA H200", memoryByteCount: 150_754_820_096, multiprocessorCount: 132,
            driverVersion: nil,
            rates: HardwareProfile.GPU.Rates(memoryRead: 4.5e12, upload: 5.5e10, download: 5.4e10)),
        processor: HardwareProfile.Processor(
            name: "AMD EPYC", coreCount: 16, instructionSet: "avx512", memoryReadBytesPerSecond: 2.5e11),
        diskReadBytesPerSecond: 3.25e9,
        together: HardwareProfile.Together(
            memoryReadBytesPerSecond: 1.9e11, uploadBytesPerSecond: 4.75e10), date: "2026-01-31T12:00:00Z")

    @Test func `a profile survives JSON`() throws {
        let data = try JSONEncoder().encode(Self.profile)
        #expect(try JSONDecoder().decode(HardwareProfile.self, from: data) == Self.profile)
    }

    @Test func `a profile is known by its GPU, its processor and its cores`() {
        #expect(Self.profile.machine.key == "NVIDIA H200 + AMD EPYC x 16")
        var other = Self.profile
        other.gpu = nil
        #expect(other.machine.key == "no GPU + AMD EPYC x 16")
    }

    @Test func `rates that cannot be, and half a GPU, are not plausible`() {
        #expect(Self.profile.isPlausible)
        let changes: [(inout HardwareProfile) -> Void] = [
            { $0.processor.memoryReadBytesPerSecond = 0 }, { $0.gpu?.uploadBytesPerSecond = -1 },
            { $0.diskReadBytesPerSecond = .infinity }, { $0.together?.uploadBytesPerSecond = .nan },
            { $0.processor.coreCount = 0 }, { $0.gpu = nil }, { $0.together = nil },
        ]
        for change in changes {
            var profile = Self.profile
            change(&profile)
            #expect(!profile.isPlausible)
        }
        var withoutDisk = Self.profile
        withoutDisk.diskReadBytesPerSecond = nil
        #expect(withoutDisk.isPlausible)
    }
}
