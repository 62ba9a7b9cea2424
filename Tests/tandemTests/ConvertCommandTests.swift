import Foundation
import Testing

struct ConvertCommandTests {
    private func entries(_ folder: TemporaryFolder) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder.url.path)
    }

    @Test func `a converted folder generates what compressing while loading does`() throws {
        let folder = try TemporaryFolder()
        for bits in ["4", "8"] {
            let name = "story-\(bits)"
            let conversion = try Program.run(
                ["convert", "storybook", "--output", name, "--weight-bits", bits], folder: folder.url)
            #expect(conversion.status == 0, "\(conversion.errors)")
            #expect(conversion.errors.contains("storybook in \(bits) bits"))
            let arguments = [
                "generate", "-q", "--prompt", "The king", "--max-tokens", "24", "--temperature", "0",
            ]
            let cpu = ["--device", "cpu"]
            let expected = try Program.run(
                arguments + cpu + ["--compress-weight", "--weight-bits", bits], folder: folder.url)
            #expect(expected.status == 0 && !expected.output.isEmpty, "\(expected.errors)")
            for flags in [[], ["--compress-weight", "--weight-bits", bits]] {
                let result = try Program.run(
                    arguments + cpu + ["--model", name] + flags, folder: folder.url)
                #expect(result.output == expected.output, "\(result.errors)")
            }
        }
        #expect(try entries(folder).sorted() == ["story-4", "story-8"])
        let other = try Program.run(
            [
                "generate", "--model", "story-4", "--compress-weight", "--weight-bits", "8", "--device",
                "cpu",
                "--prompt", "The king",
            ], folder: folder.url)
        #expect(other.status != 0)
        #expect(other.errors.contains("has been quantized to 4 bits, and 8 were asked for"))
        let again = try Program.run(["convert", "story-4", "--output", "story-16"], folder: folder.url)
        #expect(again.status != 0)
        #expect(again.errors.contains("has been quantized to 4 bits already"))
        let over = try Program.run(["convert", "storybook", "--output", "story-4"], folder: folder.url)
        #expect(over.status != 0)
        #expect(over.errors.contains("story-4 exists already"))
        #expect(try entries(folder).sorted() == ["story-4", "story-8"])
    }

    @Test func `wrong arguments and models that cannot be compressed are refused with a sentence`() throws {
        let folder = try TemporaryFolder()
        let bits = try Program.run(
            ["convert", "storybook", "--output", "new", "--weight-bits", "5"], folder: folder.url)
        #expect(bits.status != 0)
        #expect(bits.errors.contains("--weight-bits is 5; give 4 or 8"))
        let place = try Program.run(["convert", "storybook", "--output", "no/new"], folder: folder.url)
        #expect(place.status != 0)
        #expect(place.errors.contains("a folder cannot be made in no: No such file or directory"))
        #expect(try entries(folder) == [])
    }

    @Test func `Ctrl-C ends a conversion, and nothing stays`() throws {
        let folder = try TemporaryFolder()
        let process = Process()
        process.executableURL = Program.url
        process.arguments = [
            "convert", "facebook/opt-1.3b", "--path", "_DUMMY_", "--output", "new", "--threads", "1",
        ]
        process.currentDirectoryURL = folder.url
        process.standardError = FileHandle.nullDevice
        try process.run()
        while process.isRunning, try entries(folder).isEmpty { usleep(1000) }
        #expect(try entries(folder).first?.hasPrefix("new.partial-") == true)
        let start = ContinuousClock.now
        process.interrupt()
        process.waitUntilExit()
        #expect(start.duration(to: .now) < .seconds(5))
        #expect(process.terminationStatus == 130)
        #expect(try entries(folder) == [])
    }
}
