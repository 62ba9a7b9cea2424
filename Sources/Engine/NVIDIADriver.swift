/// The release of the NVIDIA driver, which the driver's own functions do not tell.
enum NVIDIADriver {
    /// Such as 535.161.08; nil where the system does not say.
    static var release: String? {
        if let version = SystemFile.text(of: "/sys/module/nvidia/version") {
            return SystemFile.trimmed(version)
        }
        return SystemFile.text(of: "/proc/driver/nvidia/version").flatMap(release)
    }

    /// The first word of digits and points in the driver's description of itself.
    static func release(in description: String) -> String? {
        description.split(whereSeparator: \.isWhitespace).first {
            $0.contains(".") && $0.allSatisfy { $0.isNumber || $0 == "." }
        }.map(String.init)
    }
}
