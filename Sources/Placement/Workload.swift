/// What a plan is made for: sequences of the same length, generated side by side.
public struct Workload: Sendable, Hashable {
    /// Sequences.
    public var batchSize: Int
    /// Tokens of each prompt.
    public var promptLength: Int
    /// Tokens generated for each sequence. The first is prefill's, each of the others takes a decode step.
    public var generationLength: Int

    public init(batchSize: Int, promptLength: Int, generationLength: Int) {
        precondition(
            batchSize > 0 && promptLength > 0 && generationLength >= 0,
            "\(batchSize) sequences of \(promptLength) and \(generationLength) tokens")
        self.batchSize = batchSize
        self.promptLength = promptLength
        self.generationLength = generationLength
    }

    public var decodeStepCount: Int { max(0, generationLength - 1) }

    /// The positions that all sequences take together at their end.
    public var positionCount: Int { batchSize * (promptLength + generationLength) }

    /// The positions over which an average decode step attends, all sequences together.
    var meanPositionCount: Int { batchSize * (promptLength + generationLength / 2) }

    /// The rows of prefill.
    var promptRowCount: Int { batchSize * promptLength }
}
