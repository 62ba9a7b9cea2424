import Foundation
import Testing

private let script = Program.root.appending(path: "Scripts/on-two-hosts")
private let canMakeHosts = (try? RankedRun(script, ["--check"]).wait().status) == 0

/// Ranks on two hosts, which are network namespaces of this machine (`Scripts/on-two-hosts`).
@Suite(.serialized, .enabled(if: canMakeHosts, "there is no mpirun, or no network namespaces can be made"))
struct TwoHostsTests {
    private static let arguments = [
        "generate", "--device", "cpu", "--prompt", "Once upon a time", "--max-tokens", "24", "--temperature",
        "0",
    ]

    private func run(_ arguments: [String]) throws -> Program.Result {
        try RankedRun(script, [Program.url.path] + Self.arguments + ["--use-mpi"] + arguments).wait()
    }

    @Test func `ranks on two hosts write the tokens that one process writes`() throws {
        let alone = try Program.run(Self.arguments)
        let together = try run(["--head-ip", "10.77.0.1", "--port", "7777", "--verbose"])
        #expect(together.status == 0, "\(together.errors)")
        #expect(together.output == alone.output)
        #expect(together.errors.contains("rank 0 of 2, local rank 0 on tandem-head"), "\(together.errors)")
        #expect(together.errors.contains("rank 1 of 2, local rank 0 on tandem-other"), "\(together.errors)")
    }

    @Test func `an address that the other host does not reach is named`() throws {
        let result = try run(["--head-ip", "127.0.0.1", "--port", "7777", "--meet-seconds", "2"])
        #expect(result.status != 0)
        #expect(
            result.sentences.contains { $0.hasPrefix("rank 1 found nobody at 127.0.0.1:7777 within 2 s") },
            "\(result.errors)")
    }

    @Test func `a host whose name the other does not know must be given as an address`() throws {
        let result = try run(["--meet-seconds", "5"])
        #expect(result.status != 0)
        #expect(result.sentences.count == 1, "\(result.errors)")
        #expect(
            result.sentences.first?.hasPrefix("tandem-head is no address that is known here") == true,
            "\(result.errors)")
    }
}
