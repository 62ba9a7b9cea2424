import CUDA
import Testing

/// Whether this machine has a GPU; the tests that need one are skipped where it has none.
enum GPUMachine {
    static let isPresent: Bool = {
        do {
            _ = try CUDADriver.load().device()
            return true
        } catch {
            print("OPTModelTests: tests that need a GPU are skipped: \(error)")
            return false
        }
    }()
}

/// Suites that have it run one after the other, while all others go on: kernels whose blocks wait for each other need the
/// whole GPU, and give up where another suite's keep some of them from running.
struct GPUTurn: SuiteTrait, TestScoping {
    private static let turns = Turns()

    func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        await Self.turns.take()
        do {
            try await function()
        } catch {
            await Self.turns.giveBack()
            throw error
        }
        await Self.turns.giveBack()
    }

    private actor Turns {
        private var isTaken = false
        private var waiting: [CheckedContinuation<Void, Never>] = []

        func take() async {
            if !isTaken {
                isTaken = true
            } else {
                await withCheckedContinuation { waiting.append($0) }
            }
        }

        /// The turn goes to who has waited longest.
        func giveBack() {
            if waiting.isEmpty {
                isTaken = false
            } else {
                waiting.removeFirst().resume()
            }
        }
    }
}

extension Trait where Self == GPUTurn {
    static var takesTurnsOnGPU: Self { GPUTurn() }
}
