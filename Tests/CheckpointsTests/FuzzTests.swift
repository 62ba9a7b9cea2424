import Checkpoints
import Glibc
import SystemPackage
import TensorCore
import Testing

struct FuzzTests {
    private struct Generator: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ state >> 29
        }
    }

    /// One damaged file among the sound ones of a fixture: opened, and read where it opens.
    @Test(arguments: ReadingTests.checkpoints.map(\.folder) + ["torch-legacy"])
    func `a damaged file is an error or a value, and never a crash`(folder: String) throws {
        let source = Fixtures.folder.appending(folder)
        let names = try fileNames(in: source)
        let copy = try TemporaryFolder()
        for name in names { try copy.write(name, try contents(of: source.appending(name))) }
        var random = Generator(state: folder.utf8.reduce(7) { $0 &* 31 &+ UInt64($1) })
        var (errors, values) = (0, 0)
        for round in 0..<200 {
            let name = names.randomElement(using: &random)!
            let sound = try contents(of: source.appending(name))
            try copy.write(name, damaged(sound, round: round, using: &random))
            do {
                try readEverything(in: copy.path)
                values += 1
            } catch let error as CheckpointError {
                #expect(!error.sentence.isEmpty)
                errors += 1
            }
            try copy.write(name, sound)
        }
        #expect(errors > 0 && (values > 0 || folder == "torch-legacy"))
    }

    private func damaged(_ sound: [UInt8], round: Int, using random: inout Generator) -> [UInt8] {
        var bytes = sound
        if round.isMultiple(of: 4) {
            return Array(bytes.prefix(Int.random(in: 0..<bytes.count, using: &random)))
        }
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            // Headers stand at one of the two ends: half of the hits go there.
            let window = Bool.random(using: &random) ? min(512, bytes.count) : bytes.count
            let distance = Int.random(in: 0..<window, using: &random)
            let index = Bool.random(using: &random) ? distance : bytes.count - 1 - distance
            bytes[index] =
                Bool.random(using: &random)
                ? bytes[index] ^ 1 << UInt8.random(in: 0..<8, using: &random)
                : [0, 0x7F, 0x80, 0xFF][round % 4]
        }
        return bytes
    }

    private func readEverything(in folder: FilePath) throws {
        let checkpoint = try CheckpointFiles(folder: folder)
        for name in checkpoint.names {
            let shape = try #require(checkpoint.specification(of: name)).shape
            if shape.rank == 1 { _ = try readVector(checkpoint, name, 0..<shape.dimensions[0]) }
            guard shape.rank == 2, shape.elementCount! > 0 else { continue }
            let block = TensorBlock(
                name: name, rows: 0..<shape.dimensions[0], columns: 0..<shape.dimensions[1])
            _ = try readBlock(checkpoint, block)
        }
    }

    private func fileNames(in folder: FilePath) throws -> [String] {
        let directory = try #require(opendir(folder.string))
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }
}
