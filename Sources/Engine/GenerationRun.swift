import FoundationEssentials
import HostRuntime
import OPTModel
import Synchronization
import Tokenization

/// One generation on the leader thread: prefill, then a step for each token, until every sequence has ended.
final class GenerationRun: @unchecked Sendable {  // handed over to the leader thread, which alone runs it
    private let session: Session
    private let prompts: [[Int32]]
    private let beginsSequences: Bool
    private let options: GenerationOptions
    private let control: GenerationControl
    private let continuation: AsyncThrowingStream<GenerationPiece, any Error>.Continuation
    private var sequences: [Sequence] = []

    /// One of the texts that are being written.
    private struct Sequence {
        var limit: Int
        var generatedCount = 0
        var isFinished = false
        var decoder: StreamingDecoder?
        var stops: StopMatcher
    }

    init(
        session: Session, prompts: [[Int32]], beginsSequences: Bool, options: GenerationOptions,
        control: GenerationControl, continuation: AsyncThrowingStream<GenerationPiece, any Error>.Continuation
    ) {
        self.session = session
        self.prompts = prompts
        self.beginsSequences = beginsSequences
        self.options = options
        self.control = control
        self.continuation = continuation
    }

    func run() {
        do {
            try generate()
            continuation.finish()
        } catch {
            continuation.finish(throwing: error)
        }
    }

    private func generate() throws {
        let engine = session.engine
        let state = session.state
        let lengths = session.capacities.indices.map { state.length(of: $0) }
        let pendingTokens = session.progress.pendingTokens
        let runs = try newTokens()
        let sampler = Sampler(
            options, seed: options.seed ?? UInt64.random(in: .min ... .max),
            vocabularySize: engine.configuration.vocabularySize, sequenceCount: runs.count,
            endOfSequence: engine.configuration.endOfSequence)
        let history = session.progress.history
        for (sequence, run) in runs.enumerated() {
            // A token left over from the last generation is in the history already.
            session.progress.history[sequence] += run.dropFirst(pendingTokens[sequence] == nil ? 0 : 1)
            for token in session.progress.history[sequence] { sampler.note(token, sequence: sequence) }
            state.isActive[sequence] = true
        }

        var stepSeconds: [Double] = []
        stepSeconds.reserveCapacity(sequences.reduce(0) { max($0, $1.limit) })
        var keyValueReadByteCount = 0
        let bytesPerPosition = KVCache.byteCountPerPosition(engine.partConfiguration)
        var start = ContinuousClock.now
        let isComplete = try engine.decoder.prefill(
            runs, state: state, isCancelled: control.isCancelled,
            choice: { sampler.choice(sequence: $0, step: sequences[$0].generatedCount) },
            { take($1, sampler, sequence: $0) })
        let prefillSeconds = start.duration(to: .now).seconds
        let decodeStart = Date.now.timeIntervalSince1970
        let reduceStart = engine.group?.reductionClock.seconds
        if !isComplete {
            // As if the prompts had never been given.
            for (sequence, length) in lengths.enumerated() { state.truncate(sequence, to: length) }
            session.progress.pendingTokens = pendingTokens
            session.progress.history = history
        }
        while isComplete, !control.isCancelled.load(ordering: .relaxed),
            sequences.contains(where: { !$0.isFinished })
        {
            start = ContinuousClock.now
            try engine.decoder.step(
                state, choice: { sampler.choice(sequence: $0, step: sequences[$0].generatedCount) },
                { take($1, sampler, sequence: $0) })
            stepSeconds.append(start.duration(to: .now).seconds)
            for sequence in sequences.indices where state.isActive[sequence] {
                keyValueReadByteCount += state.length(of: sequence) * bytesPerPosition
            }
        }
        for index in sequences.indices where !sequences[index].isFinished {
            finish(index, text: "", token: nil, nil, .cancelled)
        }
        let report = GenerationReport(
            promptTokenCounts: runs.map(\.count), generatedTokenCounts: sequences.map(\.generatedCount),
            prefillSeconds: prefillSeconds, stepSeconds: stepSeconds, decodeStart: decodeStart,
            keyValueCacheByteCount: state.cache.byteCount, keyValueReadByteCount: keyValueReadByteCount,
            decodeReduceSeconds: reduceSeconds(since: reduceStart))
        control.report.withLock { $0 = report }
    }

    /// nil where nobody has measured all-reduces.
    private func reduceSeconds(since start: Double?) -> Double? {
        guard let start, let end = session.engine.group?.reductionClock.seconds, end > start else {
            return nil
        }
        return end - start
    }

    /// What each sequence's cache does not hold yet: the token left over from the last generation, the
    /// beginning-of-sequence token where it begins, the prompt.
    private func newTokens() throws(EngineError) -> [[Int32]] {
        let engine = session.engine
        var runs: [[Int32]] = []
        for (index, prompt) in prompts.enumerated() {
            let length = session.state.length(of: index)
            var run: [Int32] = []
            if let pending = session.progress.pendingTokens[index] {
                run.append(pending)
            } else if length == 0 && beginsSequences {
                run.append(engine.configuration.beginOfSequence)
            }
            run += prompt
            let limit = try engine.generatedTokenLimit(
                options, length: length + run.count, capacity: session.capacities[index], prompt: index,
                of: prompts.count)
            sequences.append(
                Sequence(
                    limit: limit, decoder: engine.tokenizer?.makeStreamingDecoder(),
                    stops: StopMatcher(options.stopStrings)))
            runs.append(run)
        }
        for index in runs.indices { session.progress.pendingTokens[index] = nil }
        return runs
    }

    /// Hands a sequence's next token on, which the lane has chosen or the sampler chooses.
    private func take(_ output: LaneOutput, _ sampler: borrowing Sampler, sequence: Int) {
        switch output {
        case .logits(let logits): choose(sampler, sequence: sequence, logits: logits)
        case .token(let token): accept(token, nil, sequence)
        }
    }

    /// Chooses the next token of a sequence and hands its text on.
    private func choose(
        _ sampler: borrowing Sampler, sequence: Int, logits: UnsafeMutableBufferPointer<Float>
    ) {
        let step = sequences[sequence].generatedCount
        var logProbabilities: TokenLogProbabilities?
        let token: Int32
        if let count = options.topLogProbabilities {
            let normalizer = logSumExp(UnsafeBufferPointer(logits))
            let likeliest = likeliestTokens(
                UnsafeBufferPointer(logits), count: count, logSumExp: normalizer)
            let original = Array(logits)
            token = sampler.next(logits, sequence: sequence, step: step)
            logProbabilities = TokenLogProbabilities(
                chosen: .init(token: token, logProbability: original[Int(token)] - normalizer),
                likeliest: likeliest)
        } else {
            token = sampler.next(logits, sequence: sequence, step: step)
        }
        accept(token, logProbabilities, sequence)
    }

    private func accept(_ token: Int32, _ logProbabilities: TokenLogProbabilities?, _ sequence: Int) {
        session.state.nextTokens[sequence] = token
        session.progress.pendingTokens[sequence] = token
        session.progress.history[sequence].append(token)
        sequences[sequence].generatedCount += 1
        emit(token, logProbabilities, sequence)
    }

    private func emit(_ token: Int32, _ logProbabilities: TokenLogProbabilities?, _ index: Int) {
        let count = sequences[index].generatedCount
        if options.stopsAtEndOfSequence && token == session.engine.configuration.endOfSequence {
            finish(index, text: "", token: token, logProbabilities, .endOfSequence)
            return
        }
        let decoded = sequences[index].decoder?.append(token) ?? ""
        let (text, isStopped) = sequences[index].stops.append(
            decoded, isArmed: count > options.minimumTokens)
        if isStopped {
            finish(index, text: text, token: token, logProbabilities, .stopString)
        } else if count >= sequences[index].limit {
            finish(index, text: text, token: token, logProbabilities, .maximumTokens)
        } else {
            continuation.yield(
                GenerationPiece(
                    sequence: index, text: text, token: token, logProbabilities: logProbabilities))
        }
    }

    private func finish(
        _ index: Int, text: String, token: Int32?, _ logProbabilities: TokenLogProbabilities?,
        _ reason: GenerationPiece.FinishReason
    ) {
        sequences[index].isFinished = true
        session.state.isActive[index] = false
        var text = text
        if reason != .stopString {
            let rest = sequences[index].decoder?.finish() ?? ""
            text += sequences[index].stops.append(rest, isArmed: false).text
            text += sequences[index].stops.finish()
        }
        continuation.yield(
            GenerationPiece(
                sequence: index, text: text, token: token, logProbabilities: logProbabilities,
                finishReason: reason))
    }
}
