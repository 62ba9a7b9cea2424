import ArgumentParser
import Engine
import Glibc
import OPTModel
import Placement
import SystemPackage
import TensorCore

struct Convert: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write a model's folder with compressed weights.",
        discussion: """
            The folder has the layers' matrices in 4 or 8 bits, as --compress-weight keeps
            them, and loads faster. Every command takes it as a model.

              tandem convert facebook/opt-6.7b --output ./opt-6.7b-4bit
              tandem generate --model ./opt-6.7b-4bit --prompt "Paris is"
            """)

    @Argument(
        help: ArgumentHelp(
            "A folder with a model, or a name such as facebook/opt-1.3b.", valueName: "model"))
    var model: String

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("The new folder; there must be none of this name.", valueName: "folder"))
    var output: String

    @Option(help: ArgumentHelp("Bits of a weight: 4 or 8.", valueName: "bits"))
    var weightBits = 4

    @Option(
        help: ArgumentHelp(
            "The weights' folder, which holds NAME-np/ or NAME/; _DUMMY_ for random weights.",
            valueName: "folder"))
    var path: String?

    @Option(help: ArgumentHelp("Threads that convert; all processors by default.", valueName: "count"))
    var threads: Int?

    @Flag(name: .shortAndLong, help: "No statistics and no progress on standard error.")
    var quiet = false

    func validate() throws {
        if Quantization(bits: weightBits) == nil {
            throw ValidationError("--weight-bits is \(weightBits); give 4 or 8")
        }
        if output.isEmpty { throw ValidationError("--output is empty; name a new folder") }
    }

    func run() async throws {
        let reference = try ModelReference(
            model: model, path: path, downloadFolders: ModelArguments.downloadFolders)
        var options = Conversion.Options()
        options.threadCount = threads
        let start = ContinuousClock.now
        InterruptWatcher.install()
        let conversion = try Conversion(
            reference, to: FilePath(output), Quantization(bits: weightBits)!, options: options)
        InterruptWatcher.onInterrupt {
            conversion.cancel()
            InterruptWatcher.end()
        }
        let bar = ProgressBar(label: "converting \(model)", isVisible: !quiet && ProgressBar.isTerminal)
        do {
            try await conversion.run { bar.update($0, of: $1) }
        } catch {
            bar.finish()
            // Ctrl-C ends the program as soon as it has removed what was written.
            if InterruptWatcher.wasInterrupted { InterruptWatcher.end() }
            throw error
        }
        bar.finish()
        if !quiet {
            let seconds = start.duration(to: .now) / .seconds(1)
            writeToStandardError(
                "\(output): \(conversion.configuration.name) in \(weightBits) bits, "
                    + "\(conversion.configuration.convertedByteCount.byteSize()), in \(seconds.formatted(decimals: 1)) s\n"
            )
        }
    }
}
