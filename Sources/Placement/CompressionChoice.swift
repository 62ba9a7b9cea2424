/// In which form a model is kept: the fastest one whose perplexity is at most so much higher than fp16's.
///
/// A value that is given what decode steps are expected to take, and then the losses of the forms that it asks for. It asks
/// for as few as it can: in the order of speed, until one is within the bound. fp16 loses nothing.
public struct CompressionChoice: Sendable, Hashable {
    /// What is known of a form before anything is measured.
    public enum Prediction: Sendable, Hashable {
        /// An average decode step's.
        case seconds(Double)
        /// Why the model cannot be kept so, in a sentence.
        case impossible(String)
    }

    public struct Candidate: Sendable, Hashable {
        public let form: CompressionForm
        public let prediction: Prediction
        /// nil where it was not measured.
        public fileprivate(set) var loss: PerplexityLoss?

        /// nil where the form is impossible.
        public var stepSeconds: Double? {
            if case .seconds(let seconds) = prediction { seconds } else { nil }
        }

        /// Of two that are as fast, the one with more bits comes first.
        fileprivate var rank: (Double, Int, Int) {
            (stepSeconds ?? .infinity, -form.weightBits, -form.cacheBits)
        }
    }

    /// The highest loss that is taken: 0.01 for 1 %.
    public let maximumLoss: Double
    /// Those that are possible, fastest first, then the others.
    public private(set) var candidates: [Candidate]

    public init(_ predictions: [(form: CompressionForm, prediction: Prediction)], maximumLoss: Double) {
        self.maximumLoss = maximumLoss
        candidates = predictions.map {
            Candidate(
                form: $0.form, prediction: $0.prediction, loss: $0.form == .fp16 ? PerplexityLoss.none : nil)
        }.sorted { $0.rank < $1.rank }
    }

    /// The form whose loss must be known next; nil where the choice is made, or there is none.
    public var undecided: CompressionForm? {
        fastest.flatMap { $0.loss == nil ? $0.form : nil }
    }

    /// nil as long as one is `undecided`, and where none is within the bound.
    public var chosen: CompressionForm? {
        fastest.flatMap { $0.loss == nil ? nil : $0.form }
    }

    public mutating func record(_ loss: PerplexityLoss, of form: CompressionForm) {
        guard let index = candidates.firstIndex(where: { $0.form == form }) else {
            preconditionFailure("CompressionChoice: a loss of \(form.label), which is no candidate")
        }
        candidates[index].loss = loss
    }

    /// The first possible one that is not known to lose too much.
    private var fastest: Candidate? { candidates.first { $0.stepSeconds != nil && !exceeds($0) } }

    private func exceeds(_ candidate: Candidate) -> Bool {
        // So written that a loss that is no number is too much.
        candidate.loss.map { !($0.value <= maximumLoss) } ?? false
    }

    // MARK: Report

    /// A line for each candidate, and why the chosen one is.
    public var reportLines: [String] {
        let width = candidates.map(\.form.label.count).max() ?? 0
        let chosen = chosen
        return [
            "kept in the fastest form with at most \((100 * maximumLoss).plainText) % more perplexity than in fp16:"
        ]
            + candidates.map { candidate in
                let label = candidate.form.label
                return "  \(label)\(String(repeating: " ", count: width - label.count))  "
                    + line(candidate, isChosen: candidate.form == chosen)
            }
    }

    private func line(_ candidate: Candidate, isChosen: Bool) -> String {
        let seconds: Double
        switch candidate.prediction {
        case .impossible(let reason): return "not possible: \(reason)"
        case .seconds(let value): seconds = value
        }
        let milliseconds = seconds * 1e3
        let time = milliseconds.text(decimals: milliseconds < 10 ? 2 : milliseconds < 100 ? 1 : 0)
        let line = String(repeating: " ", count: max(0, 7 - time.count)) + time + " ms a token predicted, "
        guard let loss = candidate.loss else { return line + "loss not measured: slower than the chosen one" }
        if isChosen { return line + loss.text + ": chosen" }
        return line + loss.text + (exceeds(candidate) ? ": too much" : ": slower than the chosen one")
    }
}

extension PerplexityLoss {
    /// "0.60 ± 0.12 % more", in percent of the perplexity.
    fileprivate var text: String {
        if self == .none { return "no loss" }
        let percent = (100 * abs(value)).text(decimals: 2)
        let error = standardError.map { " ± \((100 * $0).text(decimals: 2))" } ?? ""
        return "\(percent)\(error) % \(value < 0 ? "less" : "more")"
    }
}
