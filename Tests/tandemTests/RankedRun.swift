import Foundation
import Glibc

/// A run of the program as several processes, which `mpirun` starts, or each by itself.
final class RankedRun {
    /// nil where there is no MPI.
    private static let launcher: URL? = {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        return folders.map { URL(filePath: "\($0)/mpirun") }
            .first { FileManager.default.isExecutableFile(atPath: $0.path) }
    }()

    static let canLaunch = launcher != nil

    /// More processes than processors, by whoever runs the tests, in a container that forbids reading other processes.
    private static let environment = [
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    ]

    private let process = Process()
    private let output: TemporaryFile
    private let errors: TemporaryFile

    /// Starts `arguments.count` ranks under `mpirun`, each with arguments of its own.
    convenience init(_ arguments: [[String]]) throws {
        let ranks = arguments.map { ["-n", "1", Program.url.path] + $0 }
        try self.init(Self.launcher!, Array(ranks.joined(separator: [":"])))
    }

    /// Starts `count` ranks under `mpirun`.
    convenience init(_ count: Int, _ arguments: [String]) throws {
        try self.init(Self.launcher!, ["-n", "\(count)", Program.url.path] + arguments)
    }

    /// Starts a program; the environment's variables of launchers are not passed on.
    init(_ executable: URL, _ arguments: [String], environment: [String: String] = [:]) throws {
        output = try TemporaryFile()
        errors = try TemporaryFile()
        process.executableURL = executable
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(Self.environment) { $1 }
            .merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(forWritingTo: output.url)
        process.standardError = try FileHandle(forWritingTo: errors.url)
        try process.run()
    }

    var isRunning: Bool { process.isRunning }

    /// Waits until something was printed.
    func awaitOutput() throws {
        while process.isRunning, try Data(contentsOf: output.url).isEmpty { usleep(1000) }
    }

    /// Sends a signal to a rank that `mpirun` has started.
    func signal(_ number: Int32, rank: Int) {
        let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        for identifier in processes.compactMap({ pid_t($0) }) where isRank(rank, identifier) {
            kill(identifier, number)
        }
    }

    private func isRank(_ rank: Int, _ identifier: pid_t) -> Bool {
        guard let text = try? String(contentsOfFile: "/proc/\(identifier)/status", encoding: .utf8),
            text.contains("PPid:\t\(process.processIdentifier)\n"),
            let variables = FileManager.default.contents(atPath: "/proc/\(identifier)/environ")
        else { return false }
        return variables.split(separator: 0).contains {
            ["OMPI_COMM_WORLD_RANK=\(rank)", "PMI_RANK=\(rank)"].contains(String(decoding: $0, as: UTF8.self))
        }
    }

    /// Waits for the end; what hangs for more than a minute is ended.
    func wait() throws -> Program.Result {
        let end = ContinuousClock.now + .seconds(60)
        while process.isRunning && ContinuousClock.now < end { usleep(10_000) }
        if process.isRunning { process.terminate() }
        process.waitUntilExit()
        return Program.Result(
            status: process.terminationStatus,
            output: String(decoding: try Data(contentsOf: output.url), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errors.url), as: UTF8.self))
    }
}

extension Program.Result {
    /// What the program itself says to be wrong, line by line; the launcher has words of its own.
    var sentences: [String] {
        errors.split(separator: "\n").filter { $0.hasPrefix("Error: ") }.map { String($0.dropFirst(7)) }
    }
}
