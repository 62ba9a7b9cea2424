/// Latency against the GPU's share of the computation, as text and as SVG.
struct SweepChart {
    struct Point {
        /// 0 to 100.
        var percent: Double
        /// Milliseconds a token; nil where it has no room or was not measured.
        var measured: Double?
        var predicted: Double?
    }

    /// The planner's own.
    struct Choice {
        var percent: Double
        var measured: Double
        var predicted: Double
    }

    var title: String
    /// By ascending percentages.
    var points: [Point]
    var choice: Choice?
    /// What no schedule goes below, in milliseconds a token.
    var floor: Double?

    private typealias Place = (percent: Double, value: Double)

    private func places(_ value: (Point) -> Double?) -> [Place] {
        points.compactMap { point in
            value(point).flatMap { $0.isFinite && $0 >= 0 ? (point.percent, $0) : nil }
        }
    }

    private var measured: [Place] { places(\.measured) }
    private var predicted: [Place] { places(\.predicted) }
    private var best: Place? { measured.min { $0.value < $1.value } }

    /// nil where there is nothing to draw.
    private var axis: ChartAxis? {
        let values = (measured + predicted).map(\.value) + [choice?.measured, floor].compactMap { $0 }
        guard let most = values.filter(\.isFinite).max(), most > 0 else { return nil }
        return ChartAxis(upTo: most)
    }

    // MARK: Text

    /// A plot of so many lines, none longer than `width`, with its title and its legend.
    func terminalLines(width: Int = 80, height: Int = 20) -> [String] {
        guard let axis else { return [title, "nothing was measured"] }
        let margin = 8
        let columns = max(20, width - margin - 1)
        var cells = [[Character]](repeating: Array(repeating: " ", count: columns + 1), count: height + 1)
        func mark(_ place: Place, _ character: Character) {
            let column = Int((place.percent / 100 * Double(columns)).rounded())
            let row = height - Int((place.value / axis.end * Double(height)).rounded())
            if cells.indices.contains(row) && (0...columns).contains(column) {
                cells[row][column] = character
            }
        }
        if let floor {
            for column in 0...columns { mark((100 * Double(column) / Double(columns), floor), "┄") }
        }
        for (left, right) in zip(predicted, predicted.dropFirst()) {
            let first = Int((left.percent / 100 * Double(columns)).rounded())
            let last = Int((right.percent / 100 * Double(columns)).rounded())
            for column in first...max(first, last) {
                let way = last > first ? Double(column - first) / Double(last - first) : 0
                let value = left.value + way * (right.value - left.value)
                mark((100 * Double(column) / Double(columns), value), "·")
            }
        }
        for place in measured { mark(place, "o") }
        if let choice { mark((choice.percent, choice.measured), "*") }
        var lines = [title, "ms a token"]
        let labels = Dictionary(
            axis.ticks.map { (height - Int(($0 / axis.end * Double(height)).rounded()), Self.text($0)) }
        ) { $1 }
        for (row, cells) in cells.enumerated() {
            let label = labels[row] ?? ""
            lines.append(
                Self.padded(label, margin - 2) + (labels[row] == nil ? " │" : " ┤") + Self.trimmed(cells))
        }
        var ticks = [Character](repeating: " ", count: width)
        for percent in stride(from: 0, through: 100, by: 20) {
            let text = percent == 100 ? "100 %" : String(percent)
            let center = margin + percent * columns / 100
            let first = min(width - text.count, center - (percent == 100 ? 2 : text.count / 2))
            ticks.replaceSubrange(first..<first + text.count, with: text)
        }
        lines.append(Self.trimmed(ticks))
        lines.append(
            "the GPU's share of the computation: o measured, · predicted, * the planner, ┄ the floor")
        return lines
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }

    private static func trimmed(_ characters: [Character]) -> String {
        String(characters[...(characters.lastIndex { $0 != " " } ?? -1)])
    }

    /// With at most two decimals, none of them a needless 0.
    static func text(_ value: Double) -> String {
        var text = value.formatted(decimals: 2)
        while text.hasSuffix("0") && text.contains(".") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }

    // MARK: SVG

    /// 760 × 440, readable on light and on dark backgrounds.
    var svg: String {
        var body: [String] = []
        func x(_ percent: Double) -> Double { 70 + percent / 100 * 660 }
        func label(_ text: String, _ x: Double, _ y: Double, _ attributes: String = "") {
            body.append(
                "<text x=\"\(Self.text(x))\" y=\"\(Self.text(y))\" \(attributes)>\(Self.escaped(text))</text>"
            )
        }
        label(title, 70, 28, "class=\"title\"")
        if let axis {
            draw(axis, &body, x)
        } else {
            label("nothing was measured", 70, 220)
        }
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 440" role="img">
            <title>\(Self.escaped(title))</title>
            <desc>Milliseconds a token against the GPU's share of the computation</desc>
            <style>
            text { font: 13px sans-serif; fill: #24292f; } .title { font-size: 15px; font-weight: 600; }
            .grid { stroke: #d0d7de; } .measured { stroke: #0969da; fill: none; } circle.measured { fill: #0969da; }
            .predicted { stroke: #8250df; stroke-dasharray: 6 4; fill: none; }
            .floor { stroke: #57606a; stroke-dasharray: 2 3; } .choice { stroke: #cf222e; stroke-width: 2.5; fill: none; }
            .best { stroke: #0969da; stroke-width: 1.5; fill: none; } .choice-text { fill: #cf222e; }
            @media (prefers-color-scheme: dark) {
            text { fill: #e6edf3; } .grid { stroke: #3d444d; } .measured, .best { stroke: #58a6ff; }
            circle.measured { fill: #58a6ff; } .predicted { stroke: #bc8cff; } .floor { stroke: #9198a1; }
            .choice { stroke: #ff7b72; } .choice-text { fill: #ff7b72; }
            }
            </style>
            \(body.joined(separator: "\n"))
            </svg>

            """
    }

    private func draw(_ axis: ChartAxis, _ body: inout [String], _ x: (Double) -> Double) {
        func y(_ value: Double) -> Double { 380 - value / axis.end * 320 }
        func line(_ points: [(Double, Double)], _ style: String) {
            let path = points.map { "\(Self.text($0.0)),\(Self.text($0.1))" }.joined(separator: " ")
            body.append("<polyline class=\"\(style)\" points=\"\(path)\"/>")
        }
        func circle(_ place: Place, _ radius: Double, _ style: String) {
            body.append(
                "<circle class=\"\(style)\" cx=\"\(Self.text(x(place.percent)))\" cy=\"\(Self.text(y(place.value)))\" "
                    + "r=\"\(Self.text(radius))\"/>")
        }
        func label(_ text: String, _ x: Double, _ y: Double, _ attributes: String = "") {
            body.append(
                "<text x=\"\(Self.text(x))\" y=\"\(Self.text(y))\" \(attributes)>\(Self.escaped(text))</text>"
            )
        }
        for tick in axis.ticks {
            line([(x(0), y(tick)), (x(100), y(tick))], "grid")
            label(Self.text(tick), 62, y(tick) + 4, "text-anchor=\"end\"")
        }
        for percent in stride(from: 0.0, through: 100, by: 20) {
            label(Self.text(percent), x(percent), 400, "text-anchor=\"middle\"")
        }
        label("ms a token", 70, 50)
        label("the GPU's share of the computation, %", x(100), 420, "text-anchor=\"end\"")
        if let floor, floor.isFinite {
            line([(x(0), y(floor)), (x(100), y(floor))], "floor")
            label("floor \(Self.text(floor))", x(100), y(floor) + 15, "text-anchor=\"end\"")
        }
        line(predicted.map { (x($0.percent), y($0.value)) }, "predicted")
        line(measured.map { (x($0.percent), y($0.value)) }, "measured")
        for place in measured { circle(place, 3, "measured") }
        if let best { circle(best, 6, "best") }
        if let choice, choice.measured.isFinite {
            circle((choice.percent, choice.measured), 9, "choice")
            let isLeft = choice.percent > 50
            label(
                "planner: \(Self.text(choice.measured)) ms at \(Self.text(choice.percent.rounded())) %",
                x(choice.percent) + (isLeft ? -14 : 14), y(choice.measured) + 28,
                "class=\"choice-text\" text-anchor=\"\(isLeft ? "end" : "start")\"")
        }
        // Below the axis, where no data are.
        for (index, entry) in [
            ("measured", "measured"), ("predicted", "predicted"), ("choice", "planner's choice"),
            ("floor", "floor"),
        ].enumerated() {
            let left = 70 + Double(index) * 105
            line([(left, 416), (left + 22, 416)], entry.0)
            label(entry.1, left + 27, 420)
        }
    }

    private static func escaped(_ text: String) -> String {
        text.split(separator: "&", omittingEmptySubsequences: false).joined(separator: "&amp;")
            .split(separator: "<", omittingEmptySubsequences: false).joined(separator: "&lt;")
            .split(separator: ">", omittingEmptySubsequences: false).joined(separator: "&gt;")
    }
}
