import Foundation
import Glibc
import Testing

/// What several processes that share a model do when one of them fails: all end, soon, with one sentence.
@Suite(.serialized) struct GroupFailureTests {
    private static let limit = 10.0
    private static let long = [
        "generate", "--use-mpi", "--device", "cpu", "--prompt", "Once", "--max-tokens", "2000",
        "--temperature",
        "0", "--ignore-end-of-sequence",
    ]

    private func expectSentence(_ result: Program.Result, status: Int32? = nil, _ beginning: String) {
        if let status {
            #expect(result.status == status, "\(result.errors)")
        } else {
            #expect(result.status != 0)
        }
        #expect(result.sentences.count == 1, "\(result.errors)")
        #expect(result.sentences.first?.hasPrefix(beginning) == true, "\(result.errors)")
    }

    // MARK: While they compute

    @Test(
        .enabled(if: RankedRun.canLaunch, "there is no mpirun"),
        arguments: [
            (SIGKILL, 0, "ended without a word"), (SIGKILL, 2, "ended without a word"),
            (SIGSTOP, 0, "has given no sign of life"), (SIGSTOP, 1, "has given no sign of life"),
        ])
    func `a rank that dies or stands still ends all`(number: Int32, rank: Int, sentence: String) throws {
        func seconds() throws -> Double {
            let run = try RankedRun(3, Self.long)
            try run.awaitOutput()
            let start = ContinuousClock.now
            run.signal(number, rank: rank)
            let result = try run.wait()
            let seconds = start.duration(to: .now) / .seconds(1)
            #expect(result.sentences.count == 1, "\(result.errors)")
            #expect(result.sentences.first?.hasPrefix("rank \(rank) on ") == true, "\(result.errors)")
            #expect(result.errors.contains(sentence) && result.status != 0, "\(result.errors)")
            return seconds
        }
        // Where other programs take the processors an end that comes too late gets one more try.
        #expect(try seconds() < Self.limit || seconds() < Self.limit)
    }

    // MARK: When they meet

    @Test(.enabled(if: RankedRun.canLaunch, "there is no mpirun"))
    func `a rank with another model says so`() throws {
        let other = ["--model", "facebook/opt-125m", "--path", "_DUMMY_"]
        let result = try RankedRun([Self.long, Self.long, Self.long + other]).wait()
        expectSentence(
            result, status: 1, "rank 2 has --model facebook/opt-125m, and rank 0 --model storybook")
        #expect(result.output == "")
    }

    @Test(.enabled(if: RankedRun.canLaunch, "there is no mpirun"))
    func `a rank with another placement says so`() throws {
        let result = try RankedRun([
            Self.long, Self.long + ["--per-layer-percent"] + (0..<4).flatMap { _ in ["50", "50"] },
        ]).wait()
        expectSentence(
            result, status: 1,
            "rank 1 has --per-layer-percent 50 50 50 50 50 50 50 50, and rank 0 --per-layer-percent not given"
        )
    }

    @Test(.enabled(if: RankedRun.canLaunch, "there is no mpirun"))
    func `what is wrong on all ranks is said once`() throws {
        expectSentence(
            try RankedRun(3, Self.long + ["--model", "/no/such"]).wait(), status: 1,
            "the model /no/such was not found")
        expectSentence(
            try RankedRun(3, Self.long + ["--threads", "0"]).wait(), status: 1, "0 threads were asked for")
        expectSentence(
            try RankedRun(3, Self.long + ["--temperature", "-1"]).wait(), "")
    }

    @Test(.enabled(if: RankedRun.canLaunch, "there is no mpirun"))
    func `ranks without MPI that compute on the CPU are told to use it`() throws {
        let result = try RankedRun(2, ["generate", "--device", "cpu", "--prompt", "Once", "--port", "7778"])
            .wait()
        expectSentence(result, status: 1, "processes that compute on CPUs exchange their sums by MPI")
    }

    @Test(.enabled(if: RankedRun.canLaunch, "there is no mpirun"))
    func `a port that is in use is refused`() throws {
        let port = try TakenPort()
        let result = try RankedRun(2, Self.long + ["--head-ip", "127.0.0.1", "--port", "\(port.number)"])
            .wait()
        expectSentence(result, status: 1, "port \(port.number) of 127.0.0.1 is in use: choose another --port")
    }

    @Test func `a rank that finds nobody says where it looked`() throws {
        let result = try Program.run([
            "generate", "--device", "cpu", "--prompt", "Once", "--rank", "1", "--world-size", "2", "--port",
            "7779",
            "--meet-seconds", "1",
        ])
        expectSentence(result, status: 1, "rank 1 found nobody at 127.0.0.1:7779 within 1 s")
    }

    @Test func `rank 0 says who did not come`() throws {
        let result = try Program.run([
            "generate", "--device", "cpu", "--prompt", "Once", "--rank", "0", "--world-size", "3", "--port",
            "7780",
            "--meet-seconds", "1",
        ])
        expectSentence(
            result, status: 1, "ranks 1 and 2 of 3 did not come to rank 0 at 127.0.0.1:7780 within 1 s")
    }

    // MARK: Before

    @Test(
        arguments: [
            (
                ["--comm-device", "cpu"],
                "--comm-device cpu exchanges sums by MPI; start the processes with mpirun"
            ),
            (["--rank", "1"], "--rank is for several processes; give --world-size"),
            (["--local-rank", "1"], "--local-rank is for several processes; give --world-size"),
            (["--world-size", "2"], "--world-size 2 needs --rank, from 0 to 1"),
            (["--world-size", "0", "--rank", "0"], "--world-size is 0; give 1 or more"),
            (["--world-size", "2", "--rank", "2"], "--rank is 2 of --world-size 2; give 0 to 1"),
            (
                ["--world-size", "2", "--rank", "0", "--local-rank", "-1"],
                "--local-rank is -1; give 0 or more"
            ),
            (["--use-mpi", "--rank", "0"], "--rank comes from MPI with --use-mpi"),
            (["--head-ip", "127.0.0.1"], "--head-ip is for several processes; start them with mpirun"),
            (["--port", "0"], "--port is 0; give a number from 1 to 65535"),
        ])
    func `flags that do not go together are one sentence`(arguments: [String], sentence: String) throws {
        let commands = [
            ["generate", "--prompt", "Once"], ["bench"], ["dist-low-latency-opt", "--path", "_DUMMY_"],
        ]
        for command in commands {
            expectSentence(try Program.run(command + arguments), status: 64, sentence)
        }
    }

    @Test func `one process of one is alone`() throws {
        let result = try Program.run([
            "generate", "--device", "cpu", "--prompt", "Once", "--max-tokens", "4", "--rank", "0",
            "--world-size", "1",
        ])
        #expect(result.status == 0 && !result.output.isEmpty, "\(result.errors)")
    }
}

/// A port that somebody listens on.
private final class TakenPort {
    let number: Int
    private let descriptor: Int32

    struct Failure: Error {}

    init() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        self.descriptor = descriptor
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, length) | listen(descriptor, 1)
                    | getsockname(descriptor, address, &length)
            }
        }
        guard status == 0 else { throw Failure() }
        number = Int(UInt16(bigEndian: address.sin_port))
    }

    deinit { close(descriptor) }
}
