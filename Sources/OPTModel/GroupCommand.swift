/// What rank 0 of a group has the other processes do, as bytes: numbers of 32 bits, lowest byte first.
enum GroupCommand {
    case makeCache(id: UInt32, capacities: [Int], logitsCount: Int)
    case releaseCache(id: UInt32)
    /// The batch is written to the `StepBatch` that the command was read with.
    case compute(cache: UInt32)
    case measureSums(rowCount: Int)

    fileprivate enum Kind: UInt32 {
        case makeCache = 1
        case releaseCache = 2
        case compute = 3
        case measureSums = 4
    }
}

/// Writes commands into memory that is made once, as a decode step allocates nothing.
final class GroupCommandWriter {
    private var buffer: UnsafeMutableBufferPointer<UInt32>
    private var count = 0

    init(rowCapacity: Int, segmentCapacity: Int) {
        buffer = .allocate(capacity: 4 + 4 * segmentCapacity + rowCapacity)
    }

    deinit { buffer.deallocate() }

    /// The last command; lent.
    var bytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: buffer[..<count]))
    }

    func makeCache(id: UInt32, capacities: [Int], logitsCount: Int) {
        begin(.makeCache, wordCount: 4 + capacities.count)
        append(id)
        append(UInt32(logitsCount))
        append(UInt32(capacities.count))
        for capacity in capacities { append(UInt32(capacity)) }
    }

    func releaseCache(id: UInt32) {
        begin(.releaseCache, wordCount: 2)
        append(id)
    }

    func measureSums(rowCount: Int) {
        begin(.measureSums, wordCount: 2)
        append(UInt32(rowCount))
    }

    func compute(_ batch: StepBatch, cache: UInt32) {
        begin(.compute, wordCount: 3 + 4 * batch.segmentCount + batch.rowCount)
        append(cache)
        append(UInt32(batch.segmentCount))
        for index in 0..<batch.segmentCount {
            let segment = batch.segments[index]
            append(UInt32(segment.sequence))
            append(UInt32(segment.rowCount))
            append(UInt32(segment.firstPosition))
            append(UInt32(segment.logitsCount))
        }
        for row in 0..<batch.rowCount { append(UInt32(bitPattern: batch.tokens[row])) }
    }

    private func begin(_ kind: GroupCommand.Kind, wordCount: Int) {
        if wordCount > buffer.count {
            buffer.deallocate()
            buffer = .allocate(capacity: wordCount)
        }
        count = 0
        append(kind.rawValue)
    }

    private func append(_ word: UInt32) {
        buffer.initializeElement(at: count, to: word.littleEndian)
        count += 1
    }
}

extension GroupCommand {
    /// Reads a command; of a step, the batch too.
    ///
    /// - Returns: nil for bytes that are no command.
    init?(_ bytes: UnsafeRawBufferPointer, batch: StepBatch) {
        var reader = Reader(bytes: bytes)
        guard let kind = reader.next().flatMap(Kind.init(rawValue:)), let id = reader.next() else {
            return nil
        }
        switch kind {
        case .makeCache:
            guard let logitsCount = reader.next(), let count = reader.next(),
                reader.wordCount == Int(count)
            else { return nil }
            self = .makeCache(
                id: id, capacities: (0..<count).map { _ in Int(reader.next()!) },
                logitsCount: Int(logitsCount))
        case .releaseCache:
            self = .releaseCache(id: id)
        case .measureSums:
            self = .measureSums(rowCount: Int(id))
        case .compute:
            guard let count = reader.next(), reader.read(Int(count), into: batch) else { return nil }
            self = .compute(cache: id)
        }
    }

    private struct Reader {
        let bytes: UnsafeRawBufferPointer
        var offset = 0

        /// The words that are left.
        var wordCount: Int { (bytes.count - offset) / 4 }

        mutating func next() -> UInt32? {
            if wordCount == 0 { return nil }
            defer { offset += 4 }
            return UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }

        /// Fills a batch with `count` segments; false where they are not all there, or do not fit.
        mutating func read(_ count: Int, into batch: StepBatch) -> Bool {
            batch.removeAll()
            guard count <= batch.segmentCapacity, wordCount >= 4 * count else { return false }
            var tokens = Reader(bytes: bytes, offset: offset + 16 * count)
            for _ in 0..<count {
                let (sequence, rowCount) = (Int(next()!), Int(next()!))
                let (firstPosition, logitsCount) = (Int(next()!), Int(next()!))
                guard rowCount <= tokens.wordCount, rowCount <= batch.freeRowCount,
                    logitsCount <= min(rowCount, batch.logitsCapacity - batch.logitsCount)
                else { return false }
                let run = UnsafeRawBufferPointer(rebasing: bytes[tokens.offset...].prefix(4 * rowCount))
                tokens.offset += 4 * rowCount
                batch.append(
                    run.assumingMemoryBound(to: Int32.self), sequence: sequence, firstPosition: firstPosition,
                    logitsCount: logitsCount)
            }
            return tokens.wordCount == 0
        }
    }
}
