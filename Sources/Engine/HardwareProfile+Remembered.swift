import CUDA
import FoundationEssentials
import HostRuntime
import Placement
import SystemPackage

/// Profiles that were measured before, in a file for all machines that share the folder.
extension HardwareProfile {
    /// What this machine was measured to sustain; nil where it was not, or what is remembered cannot be read.
    ///
    /// - Parameter file: nil for the user's.
    public static func remembered(
        _ machine: Machine = .current, in file: FilePath? = nil
    ) -> HardwareProfile? {
        guard let profile = RememberedProfiles(readFrom: file ?? rememberedFile).profiles[machine.key],
            profile.machine == machine
        else { return nil }
        return profile
    }

    /// Keeps the profile for later runs, beside those of other machines. A file that cannot be read is replaced.
    ///
    /// - Throws: where the file cannot be written.
    public func remember(in file: FilePath? = nil) throws {
        let file = file ?? Self.rememberedFile
        var remembered = RememberedProfiles(readFrom: file)
        remembered.profiles[machine.key] = self
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try FileManager.default.createDirectory(
            atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
        try encoder.encode(remembered).write(to: URL(filePath: file.string), options: .atomic)
    }

    /// The user's file.
    public static var rememberedFile: FilePath { CacheFolder.path.appending("hardware-profile.json") }
}

extension HardwareProfile.Machine {
    /// This machine, with its first GPU.
    public static var current: Self {
        Self(
            gpuName: try? CUDADriver.load().device().name, processorName: HostProcessor.name,
            coreCount: WorkerPool.availableProcessorCount)
    }
}

/// The file: a version, and profiles by what they are remembered by.
private struct RememberedProfiles: Codable {
    var version = Self.currentVersion
    var profiles: [String: HardwareProfile] = [:]

    private static let currentVersion = 1

    /// None where there is no such file, or it is broken, of another version or of something else. Profiles that cannot
    /// be true are left out.
    init(readFrom file: FilePath) {
        guard let data = try? Data(contentsOf: URL(filePath: file.string)),
            let read = try? JSONDecoder().decode(Self.self, from: data), read.version == version
        else { return }
        profiles = read.profiles.filter { $0.value.isPlausible && $0.value.machine.key == $0.key }
    }
}
