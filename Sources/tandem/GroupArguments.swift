import ArgumentParser
import Collectives
import Engine
import FoundationEssentials
import Glibc
import OPTModel
import Synchronization

/// Whether this process shares the model with others, and where they meet; shared by the sub-commands that compute.
struct GroupArguments: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Share the model with the other processes that mpirun has started: each computes a part of every layer."
        ))
    var useMpi = false

    @Option(
        help: ArgumentHelp(
            "An address of rank 0's machine that all ranks reach; needed where they are on several machines and its name "
                + "is not enough.", valueName: "address"))
    var headIp: String?

    @Option(
        help: ArgumentHelp("The port that rank 0 listens on; any free one by default.", valueName: "number"))
    var port: Int?

    @Flag(help: "Say of every rank where it runs and what it has.")
    var verbose = false

    func validate() throws {
        if let port, !(1...65535).contains(port) {
            throw ValidationError("--port is \(port); give a number from 1 to 65535")
        }
        if !useMpi {
            for (isGiven, name) in [(headIp != nil, "--head-ip"), (port != nil, "--port")] where isGiven {
                throw ValidationError(
                    "\(name) is for several processes; start them with mpirun and give --use-mpi")
            }
            if let count = Launcher.processCount, count > 1 {
                throw ValidationError(
                    "\(count) processes were started together; give --use-mpi, so that they share the model, or start one"
                )
            }
        }
    }

    /// Joins the other processes; nil where there are none.
    ///
    /// - Parameter agreement: what must be the same on all ranks.
    func join(_ agreement: [ControlLink.Agreement]) throws -> ProcessGroup? {
        guard useMpi else { return nil }
        var options = ProcessGroup.Options(programVersion: Tandem.configuration.version)
        options.headAddress = headIp
        options.port = port
        options.agreement = agreement
        let group = try ProcessGroup.joinMPI(options) { failure in
            if failure.speaks { writeToStandardError("Error: \(failure.sentence)\n") }
            _exit(EXIT_FAILURE)
        }
        guard let group else { return nil }
        CurrentGroup.set(group)
        if verbose {
            let place = group.place
            writeToStandardError(
                "rank \(place.rank) of \(place.size), \(place.localRank + 1) of \(place.localSize) on this machine: "
                    + "\(group.processorCount) \(group.processorCount == 1 ? "processor" : "processors"), "
                    + "\(group.libraryVersion)\n")
        }
        return group
    }
}

/// The group that this process belongs to, for the ways out of the program.
enum CurrentGroup {
    private static let group = Mutex<ProcessGroup?>(nil)

    static func set(_ new: ProcessGroup) {
        group.withLock { $0 = new }
        if new.isConductor { return }
        // A launcher tells all ranks to end: rank 0 finishes its step and says so.
        signal(SIGINT, SIG_IGN)
        signal(SIGTERM) { _ in alarm(2) }
    }

    /// The orderly end.
    static func end() { group.withLock { $0.take() }?.end() }

    /// Tells the others that rank 0 ends at once, as it should.
    static func endAtOnce() { group.withLock { $0.take() }?.leave() }

    /// Tells the others that this rank ends with an error, which the caller says; where another rank says it, it ends at once.
    static func leave(with error: any Error, _ sentence: String) {
        if let error = error as? CollectiveError, error.isSaidElsewhere { _exit(EXIT_FAILURE) }
        guard let group = group.withLock({ $0.take() }) else { return }
        let isOfOthers = (error as? ModelError)?.code == .group || error is CollectiveError
        // Where another rank is gone the link soon knows more, and ends this one.
        if isOfOthers { sleep(2) }
        group.fail(sentence)
    }
}

/// What the program that started this process says of its place, before it has joined the others.
enum Launcher {
    /// Open MPI, MPICH, Slurm.
    private static let rankNames = ["OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    private static let sizeNames = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]

    static var rank: Int? { value(of: rankNames) }
    static var processCount: Int? { value(of: sizeNames) }

    private static func value(of names: [String]) -> Int? {
        names.lazy.compactMap { ProcessInfo.processInfo.environment[$0].flatMap { Int($0) } }.first
    }
}
