import Foundation
import Testing

struct DoctorCommandTests {
    struct Report: Decodable {
        struct GPU: Decodable {
            var name: String
        }
        struct Processor: Decodable {
            var coreCount: Int
        }
        struct Library: Decodable {
            var name: String
            var purpose: String
        }
        struct Profile: Decodable {
            struct Processor: Decodable {
                var memoryReadBytesPerSecond: Double
            }
            var processor: Processor
            var diskReadBytesPerSecond: Double?
        }
        struct Check: Decodable {
            var passed: Bool
        }
        struct Model: Decodable {
            var model: String
        }
        var gpu: GPU?
        var processor: Processor
        var libraries: [Library]
        var profile: Profile
        var isProfileRemembered: Bool
        var checkCount: Int
        var checks: [Check]
        var models: [Model]
        var isWell: Bool
        var verdict: String
    }

    private func run(_ arguments: [String], _ cache: TemporaryFolder) throws -> Program.Result {
        try Program.run(
            ["doctor"] + arguments, environment: ["XDG_CACHE_HOME": cache.url.path])
    }

    @Test func `doctor prints one JSON document with what it measured`() throws {
        let cache = try TemporaryFolder()
        let result = try run(["--quick", "--json"], cache)
        let report = try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
        #expect(result.status == (report.isWell ? 0 : 1), "\(result.errors)")
        #expect(report.isWell, "\(report.verdict)")
        #expect(report.processor.coreCount == ProcessInfo.processInfo.activeProcessorCount)
        #expect(report.libraries.map(\.name) == ["libcuda", "libcublasLt", "libnccl", "libmpi"])
        // No memory reads slower than 1 GB/s or faster than 10 TB/s.
        #expect((1e9...1e13).contains(report.profile.processor.memoryReadBytesPerSecond))
        #expect(report.profile.diskReadBytesPerSecond ?? 0 > 1e6)
        #expect(!report.isProfileRemembered)
        #expect(report.models.count == 9)
        #expect(report.checks.count == report.checkCount)
        #expect((report.gpu == nil) == (report.checkCount == 0))
        if report.gpu == nil { #expect(report.verdict.hasPrefix("There is no GPU here")) }
        // A quick measurement is not kept, and of the disk's nothing is left.
        #expect(
            FileManager.default.subpaths(atPath: cache.url.path)?.contains { $0.hasSuffix(".json") } == false)
    }

    @Test func `doctor says what it found in words, and takes what is remembered`() throws {
        let cache = try TemporaryFolder()
        let found = try run(["--quick", "--json"], cache)
        var profile = try #require(
            (try JSONSerialization.jsonObject(with: Data(found.output.utf8)) as? [String: Any])?["profile"]
                as? [String: Any])
        profile["diskReadBytesPerSecond"] = 1.25e9
        profile["date"] = "2001-02-03T04:05:06Z"
        let processor = try #require(profile["processor"] as? [String: Any])
        let gpu = (profile["gpu"] as? [String: Any])?["name"] as? String
        let key =
            "\(gpu ?? "no GPU") + \(try #require(processor["name"] as? String)) x "
            + "\(try #require(processor["coreCount"] as? Int))"
        let folder = cache.url.appending(path: "tandem")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try JSONSerialization.data(withJSONObject: ["version": 1, "profiles": [key: profile]])
            .write(to: folder.appending(path: "hardware-profile.json"))
        let result = try run(["--quick"], cache)
        for text in [
            "GPU: ", "CPU: ", "libnccl", "Bandwidths, remembered from 2001-02-03T04:05:06Z",
            "disk, direct reads       1.25 GB/s", "opt-175b",
        ] {
            #expect(result.output.contains(text), "\(result.output)")
        }
        #expect(result.status == 0)
    }

    @Test func `a disk that cannot be measured is a note and not a failure`() throws {
        let cache = try TemporaryFolder()
        let file = try TemporaryFile(Data([1]))
        let result = try run(["--quick", "--offload-dir", file.url.path], cache)
        #expect(result.status == 0)
        #expect(result.output.contains("disk, direct reads       not measured"))
        #expect(result.output.contains("Note: no file for offloaded weights can be made in \(file.url.path)"))
    }
}
