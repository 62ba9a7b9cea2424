import ArgumentParser
import Engine
import FoundationEssentials
import SystemPackage
import Placement

struct Doctor: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what this machine has and sustains, and check every operation of its GPU.",
        discussion: """
            Looks for the GPU and the libraries, measures the bandwidths of memory, PCIe and disk, which later runs
            remember, and holds every GPU operation against a plain reference. Ends with a verdict; the exit code is 1
            where something is wrong with a GPU that is there.

              tandem doctor
              tandem doctor --quick --json
            """)

    @Flag(help: "Print the report as JSON.")
    var json = false

    @Flag(help: "Take remembered bandwidths, or measure less; check fewer sizes of each operation.")
    var quick = false

    @Option(help: ArgumentHelp("On the disk that is measured.", valueName: "folder"))
    var offloadDir: String?

    func validate() throws {
        if offloadDir?.isEmpty == true { throw ValidationError("--offload-dir is empty; name a folder") }
    }

    func run() async throws {
        var options = MachineReport.Options()
        options.isQuick = quick
        options.offloadFolder = offloadDir.map { FilePath($0) }
        let showsProgress = !json && ProgressBar.isTerminal
        let report = try await MachineReport.examine(options) { step in
            if showsProgress { writeToStandardError("\r\u{1B}[K\(step) … ") }
        }
        if showsProgress { writeToStandardError("\r\u{1B}[K") }
        writeToStandardOutput(json ? try report.json() : report.text)
        if !report.isWell { throw ExitCode(1) }
    }
}

extension MachineReport {
    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }

    var text: String {
        let sections = [machineLines, libraryLines, bandwidthLines, checkLines, modelLines]
        return sections.filter { !$0.isEmpty }.map { $0.joined(separator: "\n") }.joined(separator: "\n\n")
            + "\n\n\(verdict)\n"
    }

    private var machineLines: [String] {
        var lines: [String] = []
        if let gpu {
            lines.append(
                "GPU: \(gpu.name), compute capability \(gpu.computeCapability), "
                    + "\(gpu.multiprocessorCount) multiprocessors")
            lines.append(
                "  memory: \(gpu.memoryByteCount.byteSize()), \(gpu.freeByteCount.byteSize()) free")
            lines.append("  driver: \(gpu.driverVersion ?? "of unknown release"), CUDA \(gpu.cudaVersion)")
        } else {
            lines.append("GPU: none (\(gpuProblem ?? "unknown"))")
        }
        lines.append(
            "CPU: \(processor.name), \(processor.coreCount) \(processor.coreCount == 1 ? "core" : "cores"), "
                + processor.instructionSet)
        if let byteCount = processor.availableByteCount {
            lines.append("  memory: \(byteCount.byteSize()) free")
        }
        return lines
    }

    private var libraryLines: [String] {
        ["Libraries"]
            + libraries.map { library in
                let name = Self.column(library.name, 12)
                return "  \(name) "
                    + (library.fileName.map { "found: \($0)" } ?? "missing; \(library.purpose)")
            }
    }

    private var bandwidthLines: [String] {
        guard let profile else { return notes.map { "Note: \($0)" } }
        var rates: [(String, Double?)] = []
        if let gpu = profile.gpu {
            rates = [
                ("GPU memory, read", gpu.memoryReadBytesPerSecond),
                ("PCIe to the GPU", gpu.uploadBytesPerSecond),
                ("PCIe from the GPU", gpu.downloadBytesPerSecond),
            ]
        }
        rates.append(("CPU memory, read", profile.processor.memoryReadBytesPerSecond))
        if let together = profile.together {
            rates.append(("  with PCIe beside it", together.memoryReadBytesPerSecond))
            rates.append(("  PCIe to the GPU, then", together.uploadBytesPerSecond))
        }
        rates.append(("disk, direct reads", profile.diskReadBytesPerSecond))
        let origin = isProfileRemembered ? "remembered from \(profile.date)" : "measured now"
        return ["Bandwidths, \(origin)"]
            + rates.map { name, rate in
                "  \(Self.column(name, 24)) "
                    + (rate.map { ($0 / 1e9).formatted(decimals: 2) + " GB/s" } ?? "not measured")
            }
            + (profile.together?.joinSeconds.map {
                ["  \(Self.column("one join of CPU and GPU", 24)) \(($0 * 1e6).formatted(decimals: 2)) µs"]
            } ?? []) + notes.map { "Note: \($0)" }
    }

    private var checkLines: [String] {
        guard checkCount > 0 else { return [] }
        return [
            "GPU operations: \(passedCheckCount) of \(checkCount) checks agree with the reference"
        ] + failedChecks.map { "  failed: \($0.sentence)" }
    }

    private var modelLines: [String] {
        ["Room, for weights in fp16 and a cache of 2048 positions"]
            + models.map { fit in
                let shares = [
                    (fit.gpuPercent, "GPU"), (fit.cpuPercent, "CPU memory"), (fit.diskPercent, "disk"),
                ].filter { $0.0 > 0 }.map { "\($0.0.formatted(decimals: 0)) % \($0.1)" }
                let text = shares.isEmpty ? "does not fit" : shares.joined(separator: ", ")
                return "  \(Self.column(fit.model, 12)) \(text)"
            }
    }

    private static func column(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
