import Synchronization

/// Where in every layer's MLP streaming to the GPU ends and the CPU's part begins: a neuron, which may move between
/// passes.
///
/// The streaming thread works ahead of the lane. So a pass's boundary is settled when the first of the two asks for it,
/// and stays as it is from then on.
final class MovingBoundary: Sendable {
    /// Where it may stand: at the lower end, by multiples of `unit` behind it, and at the upper end, where the CPU has no
    /// neurons.
    let range: ClosedRange<Int>
    let unit: Int
    private let state: Mutex<State>

    private struct State {
        var target: Int
        /// Of the latest passes, each at its number modulo their count.
        var settled: [(pass: Int, boundary: Int)]
        var record: Rebalancing
    }

    /// - Parameter mostPassesAhead: how many passes the streaming thread can be ahead of the lane.
    init(at boundary: Int, range: ClosedRange<Int>, unit: Int, mostPassesAhead: Int) {
        precondition(range.contains(boundary), "MovingBoundary: \(boundary) of \(range)")
        self.range = range
        self.unit = unit
        state = Mutex(
            State(
                target: boundary, settled: Array(repeating: (0, boundary), count: mostPassesAhead + 2),
                record: Rebalancing(at: boundary, neuronCount: range.upperBound)))
    }

    /// The boundary of a pass; passes are counted from 1.
    func settle(pass: Int) -> Int {
        state.withLock { state in
            let place = pass % state.settled.count
            if state.settled[place].pass != pass { state.settled[place] = (pass, state.target) }
            return state.settled[place].boundary
        }
    }

    /// Where it is to stand in passes that are not settled yet; as near to `boundary` as it may stand.
    func move(to boundary: Int) {
        let steps = (Double(boundary - range.lowerBound) / Double(unit)).rounded()
        let place = range.lowerBound + Int(steps) * unit
        let target = min(max(place, range.lowerBound), range.upperBound)
        state.withLock { $0.target = target }
    }

    /// Counts a decode step at `boundary`.
    func note(_ boundary: Int, cpuSeconds: Double, threadCount: Int) {
        state.withLock { $0.record.note(boundary, cpuSeconds: cpuSeconds, threadCount: threadCount) }
    }

    var record: Rebalancing { state.withLock { $0.record } }
}

/// How the boundary between streamed and CPU-computed neurons has moved in decode steps.
public struct Rebalancing: Sendable, Hashable, Codable {
    /// The neurons of a layer.
    public let neuronCount: Int
    /// The neurons that the GPU computed in the first step and in the last, at least and at most.
    public private(set) var first: Int
    public private(set) var last: Int
    public private(set) var least: Int
    public private(set) var most: Int
    public private(set) var stepCount = 0
    /// Steps that had another boundary than the step before.
    public private(set) var moveCount = 0
    /// The neurons that the GPU computed, the milliseconds in which the CPU did its part, and the threads that did, in each
    /// of the latest steps.
    public private(set) var boundaries: [Int] = []
    public private(set) var cpuMilliseconds: [Double] = []
    public private(set) var threadCounts: [Int] = []
    private var sum = 0
    private static let mostSteps = 4096

    init(at boundary: Int, neuronCount: Int) {
        self.neuronCount = neuronCount
        first = boundary
        last = boundary
        least = boundary
        most = boundary
    }

    /// Over all steps.
    public var mean: Double { stepCount == 0 ? Double(first) : Double(sum) / Double(stepCount) }

    mutating func note(_ boundary: Int, cpuSeconds: Double, threadCount: Int) {
        if boundaries.count == Self.mostSteps {
            boundaries.removeFirst(Self.mostSteps / 2)
            cpuMilliseconds.removeFirst(Self.mostSteps / 2)
            threadCounts.removeFirst(Self.mostSteps / 2)
        }
        boundaries.append(boundary)
        cpuMilliseconds.append((cpuSeconds * 1e6).rounded() / 1e3)
        threadCounts.append(threadCount)
        if stepCount == 0 {
            first = boundary
            least = boundary
            most = boundary
        } else if boundary != last {
            moveCount += 1
        }
        last = boundary
        least = min(least, boundary)
        most = max(most, boundary)
        sum += boundary
        stepCount += 1
    }
}
