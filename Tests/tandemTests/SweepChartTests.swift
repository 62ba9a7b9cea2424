import CUDA
import Foundation
import Testing

#if canImport(FoundationXML)
    import FoundationXML
#endif

@testable import tandem

struct SweepChartTests {
    private static func chart(points: [SweepChart.Point]? = nil) -> SweepChart {
        SweepChart(
            title: "opt-6.7b & <others>, batch 1",
            points: points
                ?? stride(from: 0.0, through: 100, by: 5).map {
                    SweepChart.Point(
                        percent: $0, measured: max(150 - 1.6 * $0, 2.4 * $0),
                        predicted: max(145 - 1.5 * $0, 2.3 * $0))
                },
            choice: SweepChart.Choice(percent: 38, measured: 90, predicted: 88), floor: 76)
    }

    @Test(arguments: [0.003, 0.9, 1, 3.43, 6, 7, 10, 84.5, 99, 240, 1080, 5.2e6])
    func `an axis has a few round ticks and room for all`(most: Double) {
        let axis = ChartAxis(upTo: most)
        #expect(axis.end >= most && axis.end <= 2 * most)
        #expect((2...8).contains(axis.ticks.count) && axis.ticks[0] == 0)
        let step = axis.ticks[1]
        var mantissa = step
        while mantissa >= 9.99 { mantissa /= 10 }
        while mantissa < 0.999 { mantissa *= 10 }
        #expect([1, 2, 2.5, 5].contains { abs($0 - mantissa) < 1e-9 }, "\(step)")
    }

    @Test(arguments: [40, 80, 120]) func `a plot keeps to its width, and its marks stand where they should`(
        width: Int
    ) {
        let lines = Self.chart().terminalLines(width: width, height: 20)
        #expect(lines.dropLast().allSatisfy { $0.count <= max(width, 30) })
        let plot = lines.dropFirst(2).prefix(21).map { Array($0) }
        // 250 is the axis's end: 90 ms stand 13 rows below it, at 38 of 100 columns.
        let columns = width - 9
        #expect(plot[20 - 7][8 + Int((0.38 * Double(columns)).rounded())] == "*")
        #expect(plot[20 - 6].contains("┄"))
        #expect(plot.joined().count { $0 == "o" } >= 15)
        #expect(lines[2].hasPrefix("   250 ┤") && lines[22].hasPrefix("     0 ┤"))
    }

    @Test func `a point without room leaves a gap`() {
        var chart = Self.chart()
        for index in 0..<10 { chart.points[index].measured = nil; chart.points[index].predicted = nil }
        let plot = chart.terminalLines().dropFirst(2).prefix(21).map { Array($0) }
        for line in plot {
            #expect(!line.dropFirst(8).prefix(30).contains("o"))
            #expect(!line.dropFirst(8).prefix(30).contains("·"))
        }
        #expect(chart.svg.components(separatedBy: "<circle class=\"measured\"").count - 1 == 11)
    }

    @Test func `what cannot be drawn is left out`() {
        let point = SweepChart.Point(percent: 50, measured: 5, predicted: .nan)
        let broken = SweepChart.Point(percent: 60, measured: .infinity, predicted: -1)
        for points in [[point], [point, broken], [broken], [point, point]] {
            var chart = Self.chart(points: points)
            let texts = [chart.svg, chart.terminalLines().joined()]
            chart.choice = nil
            chart.floor = nil
            for text in texts + [chart.svg, chart.terminalLines().joined()] {
                #expect(!text.contains("nan") && !text.contains("inf"))
            }
        }
        var nothing = Self.chart(points: [])
        nothing.choice = nil
        nothing.floor = nil
        #expect(nothing.terminalLines().last == "nothing was measured")
        #expect(nothing.svg.contains("nothing was measured"))
    }

    @Test func `the drawing is XML, with the title as it is`() throws {
        final class Reader: NSObject, XMLParserDelegate {
            var texts: [String] = []
            var classes: [String] = []
            func parser(_ parser: XMLParser, foundCharacters string: String) { texts.append(string) }
            func parser(
                _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
                qualifiedName: String?, attributes: [String: String]
            ) {
                if name == "circle" { classes.append(attributes["class"] ?? "") }
            }
        }
        let reader = Reader()
        let parser = XMLParser(data: Data(Self.chart().svg.utf8))
        parser.delegate = reader
        #expect(parser.parse(), "\(String(describing: parser.parserError))")
        #expect(reader.texts.joined().contains("opt-6.7b & <others>, batch 1"))
        #expect(reader.texts.joined().contains("planner: 90 ms at 38 %"))
        #expect(reader.classes.count { $0 == "measured" } == 21 && reader.classes.contains("choice"))
    }

    @Test(arguments: [2, 5, 21]) func `every point is measured once, neighbours far apart in time`(count: Int)
    {
        let order = Sweep.order(count)
        #expect(order.sorted() == Array(0..<count))
        if count > 5 {
            for (first, second) in zip(order, order.dropFirst()) { #expect(abs(first - second) > 1) }
        }
    }

    @Test(arguments: [
        (["--svg", "a.svg"], "--sweep computation"),
        (["--sweep", "computation", "--sweep-points", "1"], "2 or more"),
        (["--sweep", "computation", "--sweep-rounds", "0"], "1 or more"),
        (["--sweep", "prompt"], "computation"),
        (["--sweep", "computation", "--placement", "streamed"], "leave --placement"),
    ])
    func `a sweep that cannot be is one sentence`(arguments: [String], sentence: String) throws {
        let result = try Program.run(["bench", "--model", "facebook/opt-125m"] + arguments)
        #expect(result.status != 0 && result.errors.contains(sentence), "\(result.errors)")
    }

    @Test(.enabled(if: (try? CUDADriver.load().device()) == nil, "there is a GPU"))
    func `without a GPU there is nothing to compare`() throws {
        let result = try Program.run([
            "bench", "--model", "facebook/opt-125m", "--sweep", "computation",
        ])
        #expect(result.status == 1 && result.errors.contains("there is no GPU"), "\(result.errors)")
        #expect(result.output == "")
    }
}
