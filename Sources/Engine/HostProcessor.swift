/// The processor of this machine.
enum HostProcessor {
    /// As the system names it.
    static var name: String {
        for entry in ["model name", "Model", "cpu model", "CPU part"] {
            if let name = SystemFile.entry(entry, in: "/proc/cpuinfo"), !name.isEmpty { return name }
        }
        return "unknown processor"
    }
}
