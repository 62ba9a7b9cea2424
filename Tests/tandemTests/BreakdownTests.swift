import Foundation
import OPTModel
import Testing

@testable import tandem

struct BreakdownTests {
    /// A prefill of 10 ms and two steps of 4 ms, in each of which attention takes 3 ms, 2 of them waiting.
    private static let spans: [Timeline.Span] = [
        .init(track: .host, name: "prefill", start: 0, end: 0.010),
        .init(track: .compute, name: "MLP", layer: 0, start: 0.001, end: 0.009),
        .init(track: .host, name: "decode step", start: 0.010, end: 0.014),
        .init(track: .compute, name: "self-attention", layer: 0, start: 0.010, end: 0.013),
        .init(track: .compute, name: "waiting for weights", start: 0.010, end: 0.012),
        .init(track: .copy, name: "copy to the GPU", start: 0.0105, end: 0.0115),
        .init(track: .host, name: "decode step", start: 0.014, end: 0.018),
        .init(track: .compute, name: "self-attention", layer: 0, start: 0.014, end: 0.017),
        .init(track: .compute, name: "waiting for weights", start: 0.0145, end: 0.0165),
    ]

    @Test func `a breakdown counts waiting once, and prefill apart from decode`() {
        let lines = Breakdown(Self.spans).lines
        #expect(
            lines == [
                "prefill: 10.000 ms, 1 times, in each",
                "  compute, MLP: 8.000 ms (80.0 %)",
                "decode step: 4.000 ms, 2 times, in each",
                "  compute, waiting for weights: 2.000 ms (50.0 %)",
                "  compute, self-attention: 1.000 ms (25.0 %)",
                "  copy, copy to the GPU: 0.500 ms (12.5 %)",
            ])
    }

    @Test func `a trace has a row for each track and a span for each piece of work`() throws {
        struct Trace: Decodable {
            struct Event: Decodable {
                var name: String
                var ph: String
                var ts: Double?
                var dur: Double?
                var tid: Int
                var args: [String: String]
            }
            var traceEvents: [Event]
        }
        let path = FileManager.default.temporaryDirectory.appending(path: "trace-\(UUID().uuidString).json")
            .path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try TraceFile(spans: Self.spans).write(to: path)
        let trace = try JSONDecoder().decode(Trace.self, from: Data(contentsOf: URL(filePath: path)))
        let names = trace.traceEvents.filter { $0.ph == "M" }.compactMap { $0.args["name"] }
        #expect(names == ["compute", "copy", "disk", "cpu", "host"])
        let spans = trace.traceEvents.filter { $0.ph == "X" }
        #expect(spans.count == Self.spans.count)
        let attention = try #require(spans.first { $0.name == "self-attention" })
        #expect(attention.ts == 10_000)
        #expect(abs(try #require(attention.dur) - 3_000) < 1e-6)
        #expect(attention.args == ["layer": "0"])
        #expect(names[attention.tid] == "compute")
    }

    @Test func `a trace that cannot be written says so`() {
        #expect(throws: (any Error).self) { try TraceFile(spans: []).write(to: "/nowhere/trace.json") }
    }
}
