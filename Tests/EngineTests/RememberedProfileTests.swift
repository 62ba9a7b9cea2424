import Foundation
import Placement
import SystemPackage
import Testing

@testable import Engine

struct RememberedProfileTests {
    /// A file in a folder of its own, which is not there yet.
    private final class File {
        let folder = FileManager.default.temporaryDirectory.appending(
            path: "tandem-test-\(UUID().uuidString)")
        var url: URL { folder.appending(path: "cache/hardware-profile.json") }
        var path: FilePath { FilePath(url.path) }

        func write(_ text: String) throws {
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }

        deinit { try? FileManager.default.removeItem(at: folder) }
    }

    private func profile(cores: Int, disk: Double = 2e9) -> HardwareProfile {
        HardwareProfile(
            gpu: nil,
            processor: HardwareProfile.Processor(
                name: "CPU", coreCount: cores, instructionSet: "avx2", memoryReadBytesPerSecond: 3e10),
            diskReadBytesPerSecond: disk, together: nil, date: "2026-01-31T12:00:00Z")
    }

    @Test func `profiles of several machines are remembered beside each other`() throws {
        let file = File()
        #expect(HardwareProfile.remembered(profile(cores: 4).machine, in: file.path) == nil)
        try profile(cores: 4).remember(in: file.path)
        try profile(cores: 8).remember(in: file.path)
        try profile(cores: 4, disk: 7e9).remember(in: file.path)
        let first = HardwareProfile.remembered(profile(cores: 4).machine, in: file.path)
        #expect(first == profile(cores: 4, disk: 7e9))
        let second = HardwareProfile.remembered(profile(cores: 8).machine, in: file.path)
        #expect(second == profile(cores: 8))
        #expect(HardwareProfile.remembered(profile(cores: 2).machine, in: file.path) == nil)
        // Nothing is left of writing.
        let names = try FileManager.default.contentsOfDirectory(
            atPath: file.url.deletingLastPathComponent().path)
        #expect(names == ["hardware-profile.json"])
    }

    @Test func `files that are broken, cut, foreign or impossible are taken for none and replaced`() throws {
        let file = File()
        try profile(cores: 4).remember(in: file.path)
        let whole = try String(contentsOf: file.url, encoding: .utf8)
        let texts = [
            "", "not JSON", String(whole.prefix(whole.count / 2)), "{}", "[1, 2]",
            whole.replacing("\"version\" : 1", with: "\"version\" : 2"),
            whole.replacing("no GPU + CPU x 4", with: "no GPU + CPU x 5"),
            whole.replacing("\"coreCount\" : 4", with: "\"coreCount\" : 5"),
            whole.replacing(
                "\"memoryReadBytesPerSecond\" : 30000000000", with: "\"memoryReadBytesPerSecond\" : -1"),
        ]
        for text in texts {
            #expect(text != whole)
            try file.write(text)
            for cores in [4, 5] {
                #expect(HardwareProfile.remembered(profile(cores: cores).machine, in: file.path) == nil)
            }
            try profile(cores: 4).remember(in: file.path)
            #expect(
                HardwareProfile.remembered(profile(cores: 4).machine, in: file.path) == profile(cores: 4))
        }
    }

    @Test func `a folder that cannot be written is an error of remembering alone`() throws {
        let file = File()
        try file.write("")
        let below = file.path.appending("profile.json")
        #expect(HardwareProfile.remembered(profile(cores: 4).machine, in: below) == nil)
        #expect(throws: (any Error).self) { try profile(cores: 4).remember(in: below) }
    }
}
