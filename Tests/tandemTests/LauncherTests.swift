import Collectives
import Testing

@testable import tandem

struct LauncherTests {
    @Test(
        arguments: [
            ["RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"],
            ["OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"],
            ["PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"],
            ["SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"],
            // torchrun, started by Slurm on each of two machines.
            [
                "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            ],
        ])
    func `every launcher says who this process is`(environment: [String: String]) {
        #expect(Launcher(environment: environment)?.claim == RankClaim(rank: 3, size: 4, localRank: 1))
    }

    @Test(
        arguments: [
            [:], ["RANK": "0", "WORLD_SIZE": "1"], ["RANK": "0"], ["RANK": "zero", "WORLD_SIZE": "2"],
            // A batch script: Slurm started it alone.
            ["SLURM_PROCID": "0", "SLURM_NTASKS": "8"],
        ])
    func `a process that was started alone has no launcher`(environment: [String: String]) {
        #expect(Launcher(environment: environment) == nil)
    }

    @Test func `where ranks meet comes from PyTorch's launchers, but not a port that they hold`() {
        var environment = [
            "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
        ]
        #expect(Launcher(environment: environment)?.headAddress == "10.0.0.1")
        #expect(Launcher(environment: environment)?.port == 29500)
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        #expect(Launcher(environment: environment)?.headAddress == "10.0.0.1")
        #expect(Launcher(environment: environment)?.port == nil)
    }
}
