import Testing

@testable import Collectives

struct MPILibraryTests {
    @Test func `where there is no MPI it says what was looked for`() {
        #expect {
            _ = try MPILibrary(names: ["libnosuchmpi.so.1", "libnosuchmpi.so"])
        } throws: {
            ($0 as? CollectiveError)?.code == .missingLibrary
                && "\($0)".contains("tried libnosuchmpi.so.1, libnosuchmpi.so): install Open MPI or MPICH")
        }
    }

    @Test func `a process that one kind of MPI has started does not load the other`() {
        let names = ["OMPI_COMM_WORLD_SIZE", "PMI_RANK", ""].map { name in
            MPILibrary.libraryNames { $0 == name }
        }
        #expect(names[0].allSatisfy { !names[1].contains($0) })
        #expect(Set(names[2]).isSuperset(of: names[0] + names[1]))
    }

    @Test func `a clock of all-reduces adds up`() {
        let clock = ReductionClock()
        clock.add(.milliseconds(1500))
        clock.add(.nanoseconds(250))
        #expect(abs(clock.seconds - 1.50000025) < 1e-12)
    }
}
