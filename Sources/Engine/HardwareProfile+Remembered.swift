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
        guard let profile = RememberedProfiles.plausible(in: file ?? rememberedFile).profiles[machine.key],
            profile.machine == machine
        else { return nil }
        return profile
    }

    /// Keeps the profile for later runs, beside those of other machines. A file that cannot be read is replaced.
    ///
    /// - Throws: where the file cannot be written.
    public func remember(in file: FilePath? = nil) throws {
        let file = file ?? Self.rememberedFile
        var remembered = RememberedProfiles.plausible(in: file)
        remembered.profiles[machine.key] = self
        try remembered.write(to: file, formatting: .prettyPrinted)
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
private struct RememberedProfiles: RememberedFile {
    var version = Self.currentVersion
    var profiles: [String: HardwareProfile] = [:]

    static let currentVersion = 1

    /// Without profiles that cannot be true.
    static func plausible(in file: FilePath) -> Self {
        var remembered = Self(readFrom: file)
        remembered.profiles = remembered.profiles.filter {
            $0.value.isPlausible && $0.value.machine.key == $0.key
        }
        return remembered
    }
}
