import Glibc
import HostRuntime
import Synchronization

@testable import Collectives

/// Ranks that are threads of this process and meet over the loopback.
final class LoopbackRanks: @unchecked Sendable {  // each thread writes what is its rank's, and is waited for
    let size: Int
    private(set) var links: [ControlLink?]
    /// What kept a rank from joining.
    private(set) var errors: [CollectiveError?]
    let progress: [GroupProgress]
    private let failures = Mutex<[Int: ControlLink.Failure]>([:])

    /// - Parameters:
    ///   - comers: the ranks that come; all by default.
    ///   - greeting: what each says.
    init(
        _ size: Int, comers: [Int]? = nil, limits: ControlLink.Limits = ControlLink.Limits(),
        greeting: @escaping @Sendable (Int) -> Greeting
    ) throws {
        self.size = size
        let comers = comers ?? Array(0..<size)
        links = Array(repeating: nil, count: size)
        errors = Array(repeating: nil, count: size)
        progress = (0..<size).map { _ in GroupProgress() }
        let listener = try ControlLink.Listener(ControlLink.Address(host: "127.0.0.1", port: 0))
        onThreads(comers) { [self] rank in
            do throws(CollectiveError) {
                let onFailure: @Sendable (ControlLink.Failure) -> Void = { [weak self] failure in
                    self?.failures.withLock { $0[rank] = failure }
                }
                links[rank] =
                    rank == 0
                    ? try .lead(
                        listener, greeting(0), progress: progress[0], limits: limits, onFailure: onFailure)
                    : try .follow(
                        listener.address, greeting(rank), progress: progress[rank], limits: limits,
                        onFailure: onFailure)
            } catch {
                errors[rank] = error
            }
        }
    }

    convenience init(_ size: Int, limits: ControlLink.Limits = ControlLink.Limits()) throws {
        try self.init(size, limits: limits) { Self.greeting(RankClaim(rank: $0, size: size)) }
    }

    static func greeting(
        _ claim: RankClaim, machine: String = "here", version: String = "1", model: String = "storybook"
    ) -> Greeting {
        Greeting(
            claim, machine: Machine(name: machine, bootID: machine), programVersion: version,
            agreement: [ControlLink.Agreement("--model", model)])
    }

    /// Whether a rank has been told by now that the group cannot go on.
    func hasFailed(_ rank: Int) -> Bool { failures.withLock { $0[rank] != nil } }

    /// Runs `body` for every rank at the same time.
    func perform<Result: Sendable>(_ body: @escaping @Sendable (ControlLink) throws -> Result) -> [Result?] {
        let results = Box<Result>(size)
        onThreads(Array(0..<size)) { [self] rank in results.values[rank] = try? body(links[rank]!) }
        return results.values
    }

    /// Why a rank has given up; nil where it does not within ten seconds.
    func failure(of rank: Int) -> ControlLink.Failure? {
        let end = ContinuousClock.now + .seconds(10)
        while ContinuousClock.now < end {
            if let failure = failures.withLock({ $0[rank] }) { return failure }
            usleep(10_000)
        }
        return nil
    }

    /// The threads of the links end.
    func vanish() {
        for link in links { link?.vanish() }
    }
}

private final class Box<Value>: @unchecked Sendable {  // each thread writes its own entry
    var values: [Value?]
    init(_ count: Int) { values = Array(repeating: nil, count: count) }
}

private func onThreads(_ ranks: [Int], _ body: @escaping @Sendable (Int) -> Void) {
    let threads = ranks.map { rank in startThread { body(rank) } }
    for thread in threads { pthread_join(thread, nil) }
}
