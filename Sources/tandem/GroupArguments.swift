import ArgumentParser
import Collectives
import Engine
import Glibc

/// Whether this process shares the model with others, and where they meet; shared by the sub-commands that compute.
struct GroupArguments: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Share the model with the other processes that mpirun has started: each computes a part of every layer."
        ))
    var useMpi = false

    @Option(
        help: ArgumentHelp(
            "Without --use-mpi: which of the processes this is, from 0; what the launcher says by default.",
            valueName: "number"))
    var rank: Int?

    @Option(
        help: ArgumentHelp(
            "Without --use-mpi: which of its machine's GPUs is this process's, from 0; the next free one by default.",
            valueName: "number"))
    var localRank: Int?

    @Option(
        help: ArgumentHelp("Without --use-mpi: how many processes share the model.", valueName: "count"))
    var worldSize: Int?

    @Option(
        help: ArgumentHelp(
            "An address of rank 0's machine that all ranks reach (127.0.0.1; with --use-mpi and several machines, rank 0's "
                + "host name).", valueName: "address"))
    var headIp: String?

    @Option(
        help: ArgumentHelp(
            "The port that rank 0 listens on (7777; with --use-mpi any free one).", valueName: "number"))
    var port: Int?

    @Option(help: "With what GPUs exchange their sums: gpu for NCCL, cpu for MPI by way of CPU memory.")
    var commDevice = CommunicationDevice.gpu

    @Option(help: "How GPUs add their parts up: auto, nccl, or one-shot, in which each writes to all others.")
    var allReduce = AllReduceChoice.auto

    @Flag(help: "Say of every rank where it runs and what it has.")
    var verbose = false

    /// How long ranks wait for each other at the start.
    @Option(help: .hidden)
    var meetSeconds = 30.0

    private static let defaultAddress = "127.0.0.1"
    private static let defaultPort = 7777

    func validate() throws {
        if let port, !(1...65535).contains(port) {
            throw ValidationError("--port is \(port); give a number from 1 to 65535")
        }
        let claim = try claim
        if commDevice == .cpu && !useMpi {
            throw ValidationError(
                "--comm-device cpu exchanges sums by MPI; start the processes with mpirun and give --use-mpi")
        }
        if useMpi || claim != nil || worldSize == 1 { return }
        for (isGiven, name) in [(headIp != nil, "--head-ip"), (port != nil, "--port")] where isGiven {
            throw ValidationError(
                "\(name) is for several processes; start them with mpirun and give --use-mpi, or give each its --rank and "
                    + "--world-size")
        }
    }

    /// Whether there are, or may be, other processes.
    var hasOthers: Bool { get throws { try useMpi || claim != nil } }

    /// This process's place, as flags or the launcher give it; nil where MPI does, and where the process is alone.
    private var claim: RankClaim? {
        get throws {
            let given = [("--rank", rank), ("--local-rank", localRank), ("--world-size", worldSize)]
            if useMpi {
                for (name, value) in given where value != nil {
                    throw ValidationError("\(name) comes from MPI with --use-mpi; leave one of them out")
                }
                return nil
            }
            let launched = Launcher.current?.claim
            guard let size = worldSize ?? launched?.size else {
                for (name, value) in given where value != nil {
                    throw ValidationError(
                        "\(name) is for several processes; give --world-size, their number, too")
                }
                return nil
            }
            if size < 1 { throw ValidationError("--world-size is \(size); give 1 or more") }
            if size == 1 && rank == nil { return nil }
            guard let rank = rank ?? launched?.rank else {
                throw ValidationError("--world-size \(size) needs --rank, from 0 to \(size - 1)")
            }
            guard (0..<size).contains(rank) else {
                throw ValidationError("--rank is \(rank) of --world-size \(size); give 0 to \(size - 1)")
            }
            if let localRank, localRank < 0 {
                throw ValidationError("--local-rank is \(localRank); give 0 or more")
            }
            if size == 1 { return nil }
            // A launcher's local rank belongs to its rank.
            let local = localRank ?? (self.rank == nil ? launched?.localRank : nil)
            return RankClaim(rank: rank, size: size, localRank: local)
        }
    }

    /// Joins the other processes; nil where there are none.
    ///
    /// - Parameter agreement: what must be the same on all ranks.
    func join(_ agreement: [ControlLink.Agreement]) throws -> ProcessGroup? {
        let claim = try claim
        if !useMpi && claim == nil { return nil }
        var options = ProcessGroup.Options(programVersion: Tandem.configuration.version)
        options.headAddress = headIp
        options.port = port
        options.communicationDevice = commDevice
        options.allReduce = allReduce
        options.agreement =
            agreement + [
                ControlLink.Agreement("--comm-device", commDevice.rawValue),
                ControlLink.Agreement("--all-reduce", allReduce.rawValue),
            ]
        options.meetSeconds = meetSeconds
        let group: ProcessGroup?
        if let claim {
            let launchers = Launcher.current?.headAddress
            options.headAddress = headIp ?? launchers ?? Self.defaultAddress
            // A launcher gives a name, which on the machine itself often stands for an address that no other reaches.
            options.listensOnAll =
                headIp == nil && launchers.map { !$0.hasPrefix("127.") && $0 != "localhost" } == true
            options.port = port ?? Launcher.current?.port ?? Self.defaultPort
            group = try ProcessGroup.joinRanks(claim, options, onFailure: CurrentGroup.end(after:))
        } else {
            group = try ProcessGroup.joinMPI(options, onFailure: CurrentGroup.end(after:))
        }
        if let group { CurrentGroup.set(group) }
        return group
    }
}

extension CommunicationDevice: ExpressibleByArgument {}
extension AllReduceChoice: ExpressibleByArgument {}
