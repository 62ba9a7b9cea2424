import Collectives
import FoundationEssentials

/// What the program that started this process says of its place among others: torchrun and its like, Open MPI, MPICH and
/// Intel MPI, Slurm.
struct Launcher: Equatable {
    var claim: RankClaim
    /// Where rank 0 is to be met, where the launcher says that.
    var headAddress: String?
    var port: Int?

    /// nil where no launcher started this process, or it alone.
    static let current = Launcher(environment: ProcessInfo.processInfo.environment)

    /// Rank, number of ranks and local rank. The launchers of PyTorch come first: others may have started them.
    private static let names = [
        ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
        ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
        // Of a step: a batch script has variables of the job, too, and is one process.
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    ]

    init?(environment: [String: String]) {
        func number(_ name: String) -> Int? { environment[name].flatMap { Int($0) } }
        let claims = Self.names.lazy.compactMap { names -> RankClaim? in
            guard let rank = number(names[0]), let size = number(names[1]) else { return nil }
            return RankClaim(rank: rank, size: size, localRank: number(names[2]))
        }
        guard let claim = claims.first, claim.size > 1 else { return nil }
        self.claim = claim
        headAddress = environment["MASTER_ADDR"]
        // torchrun listens there itself.
        if environment["TORCHELASTIC_USE_AGENT_STORE"] != "True" { port = number("MASTER_PORT") }
    }
}
