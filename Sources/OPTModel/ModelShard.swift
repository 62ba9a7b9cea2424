import TensorCore

/// The part of a model that one process of a group computes: heads and neurons of every layer, and rows of the token
/// table, at both ends of the model.
///
/// To what computes it, it is a model of its own, with fewer heads and neurons and a smaller vocabulary, whose weights a
/// `ShardSource` reads; only where the processes meet does the whole show (`GroupPart`). A range may be empty: a model of
/// three heads runs on four processes.
public struct ModelShard: Sendable, Hashable {
    public let whole: OPTConfiguration
    /// What a block adds once, whoever computes it, comes with this part.
    public let isFirst: Bool
    public let heads: Range<Int>
    public let neurons: Range<Int>
    /// Rows of the token table, which is the input's and the output's.
    public let tokens: Range<Int>

    /// The part of process `rank` of `size`. The parts are as equal as whole heads, and runs of neurons and rows that the
    /// kernels take well, allow.
    public init(_ whole: OPTConfiguration, rank: Int, of size: Int) {
        self.whole = whole
        isFirst = rank == 0
        heads = Self.range(of: whole.headCount, rank, size, unit: 1)
        func range(of count: Int) -> Range<Int> {
            Self.range(of: count, rank, size, unit: count >= 256 * size ? 64 : 16)
        }
        // A group of quantized weights is not divided.
        neurons =
            whole.quantization == nil
            ? range(of: whole.feedForwardSize)
            : Self.range(of: whole.feedForwardSize, rank, size, unit: Quantization.groupSize)
        tokens = range(of: whole.vocabularySize)
    }

    /// The part as a model.
    public var configuration: OPTConfiguration {
        var part = whole
        part.headCount = heads.count
        part.feedForwardSize = neurons.count
        part.vocabularySize = tokens.count
        return part
    }

    /// The first ranks get what is left over.
    private static func range(of count: Int, _ rank: Int, _ size: Int, unit: Int) -> Range<Int> {
        let units = divideUp(count, unit)
        func bound(_ rank: Int) -> Int { min(count, divideUp(units * rank, size) * unit) }
        return bound(rank)..<bound(rank + 1)
    }
}
