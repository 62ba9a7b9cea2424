import Collectives
import Testing

@testable import Engine

struct GPUSurveyTests {
    private static func survey(
        _ findings: [GPUSurvey.Finding], rank: Int, neighbours: [Int]
    ) -> GPUSurvey {
        GPUSurvey(
            findings,
            RankPlace(
                rank: rank, size: findings.count, localRank: neighbours.firstIndex(of: rank)!,
                localSize: neighbours.count), neighbours: neighbours)
    }

    @Test func `a machine's processes take its GPUs in the order of their local ranks`() throws {
        let machine = GPUSurvey.Finding(deviceCount: 2, busID: "0000:01:00.0", hasProfile: true)
        for rank in 0..<4 {
            let neighbours = rank < 2 ? [0, 1] : [2, 3]
            let survey = Self.survey(Array(repeating: machine, count: 4), rank: rank, neighbours: neighbours)
            #expect(try survey.deviceIndex() == rank % 2)
            #expect(!survey.measuresMachines)
        }
    }

    @Test func `processes that are shown one GPU each, all different, take it`() throws {
        let findings = (0..<3).map { GPUSurvey.Finding(deviceCount: 1, busID: "0000:0\($0):00.0") }
        for rank in 0..<3 {
            #expect(try Self.survey(findings, rank: rank, neighbours: [0, 1, 2]).deviceIndex() == 0)
        }
        #expect(Self.survey(findings, rank: 0, neighbours: [0, 1, 2]).measuresMachines)
    }

    @Test func `more processes than GPUs is a sentence of the process that has none`() throws {
        let findings = Array(
            repeating: GPUSurvey.Finding(deviceCount: 1, busID: "0000:01:00.0", hasProfile: true), count: 2)
        #expect(try Self.survey(findings, rank: 0, neighbours: [0, 1]).deviceIndex() == 0)
        #expect {
            _ = try Self.survey(findings, rank: 1, neighbours: [0, 1]).deviceIndex()
        } throws: {
            "\($0)".contains("rank 1 is number 2 of its machine, which has 1 GPU")
        }
    }
}
