/// The memory of this machine and this process, as the system tells.
public enum HostMemory {
    /// The bytes that can still be taken without swapping: the least that the machine and the process's control
    /// group leave. nil where the system does not tell.
    public static var availableByteCount: Int? {
        let machine = kilobytes("MemAvailable", in: "/proc/meminfo")
        guard let limit = number(in: "/sys/fs/cgroup/memory.max"),
            let used = number(in: "/sys/fs/cgroup/memory.current")
        else { return machine }
        let group = max(0, limit - used)
        return machine.map { min($0, group) } ?? group
    }

    /// The most memory that the process ever had resident.
    public static var peakResidentByteCount: Int? { kilobytes("VmHWM", in: "/proc/self/status") }

    private static func number(in path: String) -> Int? {
        SystemFile.text(of: path).flatMap { Int($0.prefix { $0.isNumber }) }
    }

    private static func kilobytes(_ entry: String, in path: String) -> Int? {
        SystemFile.entry(entry, in: path).flatMap { Int($0.prefix { $0.isNumber }) }.map { $0 << 10 }
    }
}
