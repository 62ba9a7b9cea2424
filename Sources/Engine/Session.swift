import HostRuntime
import OPTModel
import Placement
import Tokenization

/// One conversation, or several side by side: sequences with caches of their own, which every generation continues.
public final class Session: Sendable {
    public let engine: Engine
    /// The positions that each sequence has room for.
    public let capacities: [Int]
    let state: DecoderState
    let progress: Progress

    /// Where the sequences stand between generations.
    final class Progress: @unchecked Sendable {  // touched only on the engine's leader thread
        /// The last token of each sequence that was chosen and not yet run through the model.
        var pendingTokens: [Int32?]
        /// All tokens of each sequence, which the repetition penalty counts.
        var history: [[Int32]]

        init(sequenceCount: Int) {
            pendingTokens = Array(repeating: nil, count: sequenceCount)
            history = Array(repeating: [], count: sequenceCount)
        }
    }

    fileprivate init(engine: Engine, capacities: [Int], state: DecoderState) {
        self.engine = engine
        self.capacities = capacities
        self.state = state
        progress = Progress(sequenceCount: capacities.count)
    }

    /// Continues each sequence with its prompt; a first prompt gets the beginning-of-sequence token in front.
    public func generate(_ prompts: [String], options: GenerationOptions = GenerationOptions()) throws
        -> Generation
    {
        let tokens = try engine.encode(prompts)
        try check(tokens, options)
        return start(tokens, beginsSequences: true, options)
    }

    /// Continues each sequence with token ids, exactly as they are.
    public func generate(tokens: [[Int32]], options: GenerationOptions = GenerationOptions()) throws
        -> Generation
    {
        try check(tokens, options)
        return start(tokens, beginsSequences: false, options)
    }

    private func check(_ prompts: [[Int32]], _ options: GenerationOptions) throws {
        try options.validate()
        try engine.check(prompts)
        guard prompts.count == capacities.count else {
            throw EngineError(
                .invalidOption,
                "\(prompts.count) prompts for a session of \(capacities.count) sequences; give one for each")
        }
    }

    /// Starts what has been checked: one prompt of known tokens for each sequence, and options that are valid.
    fileprivate func start(_ prompts: [[Int32]], beginsSequences: Bool, _ options: GenerationOptions)
        -> Generation
    {
        let control = GenerationControl()
        let (stream, continuation) = AsyncThrowingStream<GenerationPiece, any Error>.makeStream()
        continuation.onTermination = { _ in control.isCancelled.store(true, ordering: .relaxed) }
        let run = GenerationRun(
            session: self, prompts: prompts, beginsSequences: beginsSequences, options: options,
            control: control, continuation: continuation)
        engine.leader.enqueue { run.run() }
        return Generation(stream: stream, control: control)
    }
}

extension Engine {
    /// Makes a session with room for `capacities` positions of each sequence, prompts and answers together.
    public func makeSession(capacities: [Int]) async throws -> Session {
        if capacities.isEmpty {
            throw EngineError(.invalidOption, "a session needs at least one sequence")
        }
        try checkCapacities(capacities)
        return try await leader.perform { [self] in
            let state = try decoder.makeState(capacities: capacities)
            return Session(engine: self, capacities: capacities, state: state)
        }
    }

    /// Makes sure that the model has so many positions, and that the caches fit where they are to lie.
    ///
    /// - Parameter logitsCount: rows of a pass whose logits are wanted, where that is more than one of each sequence.
    func checkCapacities(_ capacities: [Int], logitsCount: Int = 0) throws(EngineError) {
        for capacity in capacities where capacity < 1 || capacity > configuration.maximumPositions {
            throw EngineError(
                .positionsExceeded,
                "a sequence of \(capacity) tokens was asked for; \(configuration.name) has "
                    + "\(configuration.maximumPositions) positions")
        }
        try checkMemory(for: capacities, logitsCount: logitsCount)
    }

    /// Continues each prompt once, in a session of exactly the room that it takes.
    public func generate(_ prompts: [String], options: GenerationOptions = GenerationOptions()) async throws
        -> Generation
    {
        let tokens = try encode(prompts).map { [configuration.beginOfSequence] + $0 }
        return try await generate(tokens: tokens, options: options)
    }

    /// Continues each run of token ids once, in a session of exactly the room that it takes.
    public func generate(tokens: [[Int32]], options: GenerationOptions = GenerationOptions()) async throws
        -> Generation
    {
        try options.validate()
        try check(tokens)
        var capacities: [Int] = []
        for (index, prompt) in tokens.enumerated() {
            let count = try generatedTokenLimit(
                options, length: prompt.count, capacity: configuration.maximumPositions, prompt: index,
                of: tokens.count)
            capacities.append(prompt.count + count)
        }
        return try await makeSession(capacities: capacities)
            .start(tokens, beginsSequences: false, options)
    }

    /// The prompts' tokens, without a beginning-of-sequence token.
    func encode(_ prompts: [String]) throws(EngineError) -> [[Int32]] {
        guard let tokenizer else {
            throw EngineError(
                .noTokenizer,
                "\(configuration.name) has no tokenizer (\(origin)): put the model's tokenizer.json, or vocab.json "
                    + "and merges.txt, into its folder, or give token ids")
        }
        if let index = prompts.firstIndex(of: "") {
            throw EngineError(
                .emptyPrompt, "prompt \(index + 1) of \(prompts.count) is empty; give at least one character")
        }
        return prompts.map { tokenizer.encode($0, addingBeginOfSequence: false) }
    }

    /// The most tokens that can follow `length` positions.
    func generatedTokenLimit(
        _ options: GenerationOptions, length: Int, capacity: Int, prompt: Int, of promptCount: Int
    ) throws(EngineError) -> Int {
        let room = capacity - length
        if let maximum = options.maximumTokens, maximum <= room { return maximum }
        if options.maximumTokens == nil && room >= 1 && room >= options.minimumTokens {
            return min(room, max(256, options.minimumTokens))
        }
        let wanted = options.maximumTokens ?? max(1, options.minimumTokens)
        throw EngineError(
            .positionsExceeded,
            "prompt \(prompt + 1) of \(promptCount) comes to \(length) tokens; with \(wanted) to generate that is "
                + "\(length + wanted), and there are \(capacity) positions"
                + (room >= 1
                    ? ": generate at most \(room) tokens, or shorten the prompt"
                    : ": shorten the prompt to at most \(capacity - wanted) tokens"))
    }

    func check(_ prompts: [[Int32]]) throws(EngineError) {
        for (index, prompt) in prompts.enumerated() {
            if prompt.isEmpty {
                throw EngineError(
                    .emptyPrompt, "prompt \(index + 1) of \(prompts.count) is empty; give at least one token")
            }
            for token in prompt where token < 0 || token >= configuration.vocabularySize {
                throw EngineError(
                    .invalidToken,
                    "prompt \(index + 1) has the token id \(token), and the vocabulary of \(configuration.name) "
                        + "has \(configuration.vocabularySize) tokens")
            }
        }
    }

    private func checkMemory(for capacities: [Int], logitsCount: Int) throws(EngineError) {
        guard let gpuLane else {
            let perPosition = KVCache.byteCountPerPosition(cpuWeights!.configuration)
            // Logits of every sequence stand beside its cache.
            let rowCount = max(1, logitsCount / capacities.count)
            let perSequence = rowCount * configuration.vocabularySize * MemoryLayout<Float>.size
            return try checkMemory(
                needs: capacities.map { perSequence + $0 * perPosition },
                of: group.share(of: HostMemory.availableByteCount),
                "in CPU memory")
        }
        func needs(_ tier: Tier) -> [Int] {
            capacities.map { gpuLane.cacheByteCount(on: tier, capacity: $0) }
        }
        let folder = gpuLane.weights.offloadFolder
        try checkMemory(needs: needs(.gpu), of: try? gpuLane.context.freeByteCount, "in GPU memory")
        try checkMemory(
            needs: needs(.cpu), of: group.share(of: HostMemory.availableByteCount), "in CPU memory")
        try checkMemory(
            needs: needs(.disk), of: group.share(of: OffloadFile.availableByteCount(in: folder)),
            "on the disk of \(folder)")
    }

    private func checkMemory(needs: [Int], of free: Int?, _ place: String) throws(EngineError) {
        let needed = needs.reduce(0, +)
        guard let available = free, needed > available else { return }
        var sum = 0
        let fitting = needs.prefix {
            sum += $0
            return sum <= available
        }.count
        throw EngineError(
            .outOfMemory,
            "the caches of \(needs.count) sequences take \(needed.byteSize()) \(place), and "
                + "\(available.byteSize()) are free: "
                + (fitting > 0
                    ? "use a batch of at most \(fitting), or fewer tokens"
                    : "shorten the prompt or generate fewer tokens"))
    }
}
