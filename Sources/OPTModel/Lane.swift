/// What computes steps: the processor, or the GPU with what is streamed to it.
///
/// A lane is led by one thread at a time.
public protocol Lane: AnyObject, Sendable {
    /// The most rows of a step.
    var rowCapacity: Int { get }
    /// The most sequences of a step.
    var segmentCapacity: Int { get }
    /// The most rows of a step whose logits are wanted.
    var logitsCapacity: Int { get }

    /// Makes the memory for the keys and values of sequences with room for `capacities` positions, and for the logits of
    /// as many rows a step as there are sequences, or of `logitsCount` where that is more.
    func makeCache(capacities: [Int], logitsCount: Int) throws(ModelError) -> any LaneCache

    /// Runs the batch through all layers: keys and values go to `cache`, and the logits that a segment wants, or the token
    /// that the lane chose from them, to `body`, once for each segment that wants any.
    func compute(
        _ batch: StepBatch, cache: any LaneCache,
        _ body: (_ segment: StepBatch.Segment, _ output: LaneOutput) -> Void
    ) throws(ModelError)
}

extension Lane {
    /// For steps that want the logits of one row of each sequence.
    public func makeCache(capacities: [Int]) throws(ModelError) -> any LaneCache {
        try makeCache(capacities: capacities, logitsCount: 0)
    }
}

/// Keys and values of several sequences, in the memory of the lane that made it.
public protocol LaneCache: AnyObject, Sendable {
    /// The positions that each sequence has room for.
    var capacities: [Int] { get }
    var byteCount: Int { get }
}

/// What a lane gives for a segment.
public enum LaneOutput {
    /// [the segment's last rows whose logits are wanted, vocabulary]; lent, and may be changed.
    case logits(UnsafeMutableBufferPointer<Float>)
    /// The token, chosen as the batch's `TokenChoice` says.
    case token(Int32)
}

/// How a token is to be chosen where a lane does that itself, in the order of the fields: temperature, top-k, top-p,
/// draw.
public struct TokenChoice: Sendable {
    /// 0 takes the likeliest.
    public var temperature: Float
    /// 0 for all.
    public var topK: Int
    /// 1 for all.
    public var topP: Float
    /// In [0, 1).
    public var uniform: Float
    /// A token that may not be chosen, or nil.
    public var forbidden: Int32?

    public init(temperature: Float, topK: Int, topP: Float, uniform: Float, forbidden: Int32?) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.uniform = uniform
        self.forbidden = forbidden
    }
}
