import Foundation

/// The program that was built beside these tests, and what a run of it came to.
struct Program {
    struct Result {
        var status: Int32
        var output: String
        var errors: String
        /// From the test fault to the end; nil where there was none.
        var secondsSinceFault: Double?
    }

    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    static let url = URL(filePath: CommandLine.arguments[0]).deletingLastPathComponent()
        .appending(path: "tandem")

    /// - Parameters:
    ///   - fault: what goes wrong, for `TANDEM_TEST_FAULT`.
    ///   - interruptCount: how often Ctrl-C comes once that has.
    static func run(
        _ arguments: [String], input: Data = Data(), folder: URL? = nil,
        environment: [String: String] = [:], interruptsAtOutput: Bool = false, fault: String? = nil,
        interruptCount: Int = 0
    ) throws -> Result {
        var environment = environment
        environment["TANDEM_TEST_FAULT"] = fault
        let process = Process()
        process.executableURL = url
        process.arguments = arguments
        process.currentDirectoryURL = folder
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let standardInput = Pipe()
        // Files, not pipes: a pipe that nobody empties stops the program.
        let output = try TemporaryFile()
        let errors = try TemporaryFile()
        process.standardInput = standardInput
        process.standardOutput = try FileHandle(forWritingTo: output.url)
        process.standardError = try FileHandle(forWritingTo: errors.url)
        try process.run()
        try standardInput.fileHandleForWriting.write(contentsOf: input)
        try standardInput.fileHandleForWriting.close()
        if interruptsAtOutput {
            while process.isRunning, try Data(contentsOf: output.url).isEmpty { usleep(1000) }
            process.interrupt()
        }
        var faultTime: ContinuousClock.Instant?
        if fault != nil {
            while process.isRunning,
                try !String(contentsOf: errors.url, encoding: .utf8).contains("test fault")
            {
                usleep(1000)
            }
            faultTime = .now
            for _ in 0..<interruptCount {
                process.interrupt()
                // Two that come at the same time are one.
                usleep(100_000)
            }
        }
        process.waitUntilExit()
        return Result(
            status: process.terminationStatus,
            output: String(decoding: try Data(contentsOf: output.url), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errors.url), as: UTF8.self),
            secondsSinceFault: faultTime.map { $0.duration(to: .now) / .seconds(1) })
    }
}

/// A file that is removed with its owner.
final class TemporaryFile {
    let url = FileManager.default.temporaryDirectory.appending(path: "tandem-test-\(UUID().uuidString)")

    init(_ data: Data = Data()) throws {
        try data.write(to: url)
    }

    deinit {
        try? FileManager.default.removeItem(at: url)
    }
}

/// A folder that is removed with its owner.
final class TemporaryFolder {
    let url = FileManager.default.temporaryDirectory.appending(path: "tandem-test-\(UUID().uuidString)")

    init() throws {
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(at: url)
    }
}
