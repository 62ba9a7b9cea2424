import FoundationEssentials
import SystemPackage

/// What is kept in a file for later runs: JSON with a version.
protocol RememberedFile: Codable {
    static var currentVersion: Int { get }
    var version: Int { get }

    /// With nothing in it, of the current version.
    init()
}

extension RememberedFile {
    /// Nothing where there is no such file, or it is broken, of another version or of something else.
    init(readFrom file: FilePath) {
        guard let data = try? Data(contentsOf: URL(filePath: file.string)),
            let read = try? JSONDecoder().decode(Self.self, from: data), read.version == Self.currentVersion
        else {
            self.init()
            return
        }
        self = read
    }

    /// Replaces the file at once, and makes its folder where there is none.
    func write(to file: FilePath, formatting: JSONEncoder.OutputFormatting = []) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = formatting.union([.sortedKeys, .withoutEscapingSlashes])
        try FileManager.default.createDirectory(
            atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
        try encoder.encode(self).write(to: URL(filePath: file.string), options: .atomic)
    }
}
