import CUDAKernelImage
import TensorCore

/// Attention and its cache: head dimensions of the published models and another one, lengths around the kernels' tiles.
extension GPUOperationCase {
    private static let heads =
        [12, 64, 80, 128].map { CachedHead(dimension: $0) }
        + [96, 64, 80, 128].map { CachedHead(dimension: $0, bits: 4) }
    private static let lengths = [1, 33, 129, 300]

    // MARK: Storing

    static let storeCases = heads.map(store)

    private static func store(_ head: CachedHead) -> GPUOperationCase {
        let headDimension = head.dimension
        return GPUOperationCase(
            operation: head.isQuantized ? .storeKeysValuesQuantized : .storeKeysValues,
            sizes: "5 rows, head dimension \(headDimension)"
        ) { workbench in
            let caches = [CacheShape(head, capacity: 5), CacheShape(head, capacity: 39)]
            // Rows of two sequences, whose caches differ in capacity.
            let places = [(0, 0), (0, 1), (1, 7), (0, 4), (1, 38)]
            let width = CacheShape.heads * headDimension
            let qkv = workbench.random.halves(places.count * 3 * width)
            var expected = caches.map(\.poisoned)
            for (row, (sequence, position)) in places.enumerated() {
                caches[sequence].store(qkv, row: row, position: position, to: &expected[sequence])
            }
            let judged = expected
            let addresses = try caches.map { try workbench.upload($0.poisoned) }
            let rows = places.map { sequence, position in
                tandem_gpu_row(
                    cache: addresses[sequence], host_cache: 0, token_row: 0, position_row: 0,
                    capacity: UInt32(caches[sequence].capacity), position: Int32(position))
            }
            let arguments = tandem_gpu_store_keys_values(
                rows: try workbench.upload(rows), qkv: try workbench.upload(qkv),
                heads: UInt32(CacheShape.heads), head_dimension: UInt32(headDimension),
                layer: UInt32(CacheShape.layer), first_head: UInt32(CacheShape.firstHead),
                cache_heads: UInt32(CacheShape.cacheHeads),
                piece_heads: UInt32(CacheShape.heads), on_host: 0, cache_bits: UInt32(head.bits))
            return Trial {
                try workbench.kernels.storeKeysValues(
                    arguments, rowCount: places.count, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                for (sequence, cache) in caches.enumerated() {
                    let found = try workbench.download(
                        addresses[sequence], cache.elementCount, of: UInt16.self)
                    let wrongCount = zip(found, judged[sequence]).count { $0 != $1 }
                    deviation.note(
                        "\(wrongCount) elements of a cache are wrong", unless: wrongCount == 0)
                }
                return deviation
            }
        }
    }

    // MARK: Decode

    static let attentionDecodeCases = heads.flatMap { head in
        (lengths.map { [$0] } + [lengths]).map { attentionDecode(head, $0, inRows: false) }
    }

    static let attentionRowsCases = heads.filter {
        HeadDimensionKernels.dimensions.contains($0.dimension)
    }.flatMap { head in
        [[1], [2, 17], [24, 33, 129, 300], [1500]].map { attentionDecode(head, $0, inRows: true) }
    }

    /// One row for each of the lengths, which count the row's own position.
    private static func attentionDecode(_ head: CachedHead, _ lengths: [Int], inRows: Bool)
        -> GPUOperationCase
    {
        let headDimension = head.dimension
        let sizes = "head dimension \(headDimension), \(lengths.map(String.init).joined(separator: ", "))"
        let operation: GPUOperation =
            inRows
            ? head.isQuantized ? .attentionRowsQuantized : .attentionRows
            : head.isQuantized ? .attentionDecodeQuantized : .attentionDecode
        return GPUOperationCase(operation: operation, sizes: sizes + " positions") { workbench in
            let rowCount = lengths.count
            let width = CacheShape.heads * headDimension
            let qkv = workbench.random.queriesKeysValues(rows: rowCount, width: width)
            let caches = lengths.map { CacheShape(head, capacity: $0 + 3) }
            var before: [[UInt16]] = []
            var after: [[UInt16]] = []
            for (row, cache) in caches.enumerated() {
                var elements = cache.poisoned
                cache.fill(&elements, positions: lengths[row] - 1, &workbench.random)
                before.append(elements)
                cache.store(qkv, row: row, position: lengths[row] - 1, to: &elements)
                after.append(elements)
            }
            let expectedCaches = after
            let addresses = try before.map(workbench.upload)
            let rows = caches.indices.map { row in
                tandem_gpu_row(
                    cache: addresses[row], host_cache: addresses[row], token_row: 0, position_row: 0,
                    capacity: UInt32(caches[row].capacity), position: Int32(lengths[row] - 1))
            }
            let partCount = GPUKVCache.partCount(positions: caches.map(\.capacity).max()!)
            let pairCount = rowCount * CacheShape.heads
            let out = try workbench.reserve(rowCount * width, of: Float16.self)
            let counters = try workbench.upload([UInt32](repeating: 0, count: pairCount))
            let scale = 1 / Float(headDimension).squareRoot()
            let arguments = tandem_gpu_attention_decode(
                rows: try workbench.upload(rows), qkv: try workbench.upload(qkv), out: out,
                partials: try workbench.reserve(pairCount * partCount * (headDimension + 2), of: Float.self),
                counters: counters, row_count: UInt32(rowCount), heads: UInt32(CacheShape.heads),
                head_dimension: UInt32(headDimension), layer: UInt32(CacheShape.layer),
                first_head: UInt32(CacheShape.firstHead), cache_heads: UInt32(CacheShape.cacheHeads),
                // Either of a row's two caches.
                piece_heads: UInt32(CacheShape.heads), on_host: inRows ? 0 : UInt32(rowCount % 2),
                cache_bits: UInt32(head.bits), part_count: UInt32(partCount), scale: scale)
            return Trial {
                if inRows {
                    guard try workbench.kernels.attentionRows(arguments, on: workbench.stream) else {
                        throw ModelError(.gpu, "this GPU's image has no such kernel")
                    }
                } else {
                    try workbench.kernels.attentionDecode(arguments, on: workbench.stream)
                }
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(out, rowCount * width, of: Float16.self)
                for (row, cache) in caches.enumerated() {
                    cache.compare(
                        found, row: row, queries: qkv, cache: expectedCaches[row], count: lengths[row],
                        scale: Double(scale), &deviation)
                    let left = try workbench.download(addresses[row], cache.elementCount, of: UInt16.self)
                    deviation.note(
                        "the cache is not as it was, with the row's key and value",
                        unless: left == expectedCaches[row])
                }
                let counts = try workbench.download(counters, pairCount, of: UInt32.self)
                deviation.note("its counters are not zero afterwards", unless: counts.allSatisfy { $0 == 0 })
                return deviation
            }
        }
    }

    // MARK: Prefill

    /// Rows of a prompt, the first of which stands at a position.
    private struct Segment {
        var firstPosition = 0
        var rowCount: Int
    }

    static let attentionPrefillCases = heads.flatMap { head in
        let ragged = [
            Segment(rowCount: 33), Segment(firstPosition: 7, rowCount: 129),
            Segment(firstPosition: 40, rowCount: 1),
        ]
        return (lengths.map { [Segment(rowCount: $0)] } + [ragged]).map {
            attentionPrefill(head, $0)
        }
    }

    private static func attentionPrefill(_ head: CachedHead, _ segments: [Segment]) -> GPUOperationCase {
        let headDimension = head.dimension
        let text = segments.map { "\($0.rowCount) rows from \($0.firstPosition)" }.joined(separator: ", ")
        return GPUOperationCase(
            operation: head.isQuantized ? .attentionPrefillQuantized : .attentionPrefill,
            sizes: "head dimension \(headDimension), \(text)"
        ) { workbench in
            let rowCount = segments.reduce(0) { $0 + $1.rowCount }
            let width = CacheShape.heads * headDimension
            var qkv = workbench.random.queriesKeysValues(rows: rowCount, width: width)
            // Keys and values are taken from the cache alone.
            for row in 0..<rowCount {
                for i in row * 3 * width + width..<(row + 1) * 3 * width { qkv[i] = .nan }
            }
            let queries = qkv
            let caches = segments.map {
                CacheShape(head, capacity: $0.firstPosition + $0.rowCount + 3)
            }
            let contents = zip(caches, segments).map { cache, segment in
                var elements = cache.poisoned
                cache.fill(
                    &elements, positions: segment.firstPosition + segment.rowCount, &workbench.random)
                return elements
            }
            let addresses = try contents.map(workbench.upload)
            var rows: [tandem_gpu_row] = []
            var firstRows: [Int] = []
            for (index, segment) in segments.enumerated() {
                firstRows.append(rows.count)
                for row in 0..<segment.rowCount {
                    rows.append(
                        tandem_gpu_row(
                            cache: addresses[index], host_cache: 0, token_row: 0, position_row: 0,
                            capacity: UInt32(caches[index].capacity),
                            position: Int32(segment.firstPosition + row)))
                }
            }
            let starts = firstRows
            let segmentList = zip(starts, segments).map {
                tandem_gpu_segment(first_row: UInt32($0), row_count: UInt32($1.rowCount))
            }
            let out = try workbench.reserve(rowCount * width, of: Float16.self)
            let scale = 1 / Float(headDimension).squareRoot()
            let arguments = tandem_gpu_attention_prefill(
                rows: try workbench.upload(rows), segments: try workbench.upload(segmentList),
                qkv: try workbench.upload(qkv), out: out, segment_count: UInt32(segments.count),
                heads: UInt32(CacheShape.heads), head_dimension: UInt32(headDimension),
                layer: UInt32(CacheShape.layer), first_head: UInt32(CacheShape.firstHead),
                cache_heads: UInt32(CacheShape.cacheHeads),
                piece_heads: UInt32(CacheShape.heads), on_host: 0, cache_bits: UInt32(head.bits), scale: scale
            )
            let longest = segments.map(\.rowCount).max()!
            return Trial {
                try workbench.kernels.attentionPrefill(
                    arguments, longestSegment: longest, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(out, rowCount * width, of: Float16.self)
                deviation.note("a result is no number", unless: found.allSatisfy(\.isFinite))
                for (index, segment) in segments.enumerated() {
                    // Some rows only, the last among them: the reference takes its time.
                    let step = max(1, segment.rowCount / 16)
                    for row in stride(from: segment.rowCount - 1, through: 0, by: -step) {
                        caches[index].compare(
                            found, row: starts[index] + row, queries: queries, cache: contents[index],
                            count: segment.firstPosition + row + 1, scale: Double(scale), &deviation)
                    }
                    let left = try workbench.download(
                        addresses[index], caches[index].elementCount, of: UInt16.self)
                    deviation.note("the cache was changed", unless: left == contents[index])
                }
                return deviation
            }
        }
    }
}

/// How a check's cache keeps a head's key or value of a position.
private struct CachedHead {
    var dimension: Int
    var bits = 16

    var isQuantized: Bool { bits == 4 }

    /// In words of two bytes, which are the elements in fp16.
    var wordCount: Int {
        isQuantized ? Quantization.cachePositionByteCount(headDimension: dimension) / 2 : dimension
    }

    /// What a cache has of a key or value.
    func packed(_ elements: [Float16]) -> [UInt16] {
        if !isQuantized { return elements.map(\.bitPattern) }
        let bytes = QuantizedPosition(elements).bytes
        return stride(from: 0, to: bytes.count, by: 2).map { UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8 }
    }

    func elements(_ packed: some Sequence<UInt16>) -> [Float16] {
        if !isQuantized { return packed.map { Float16(bitPattern: $0) } }
        let bytes = packed.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
        return QuantizedPosition(bytes: bytes, dimension: dimension).elements
    }
}

/// A KV cache for checks, [layer][key, value][head][position][dimension]: the operation has a range of the heads of the
/// second layer.
private struct CacheShape {
    let form: CachedHead
    let capacity: Int
    var dimension: Int { form.dimension }

    static let layers = 2
    static let layer = 1
    static let cacheHeads = 4
    static let firstHead = 1
    static let heads = 2

    init(_ form: CachedHead, capacity: Int) {
        self.form = form
        // Lines in 4 bits begin at 16 bytes.
        self.capacity = form.isQuantized ? divideUp(capacity, 4) * 4 : capacity
    }

    var elementCount: Int { Self.layers * 2 * Self.cacheHeads * capacity * form.wordCount }

    /// Elements that are no number, and in 4 bits scales and minimums that are none.
    var poisoned: [UInt16] { [UInt16](repeating: 0xffff, count: elementCount) }

    /// Where a head's line of a position begins; `kind` is 0 for keys and 1 for values.
    func offset(kind: Int, head: Int, position: Int) -> Int {
        (((Self.layer * 2 + kind) * Self.cacheHeads + Self.firstHead + head) * capacity + position)
            * form.wordCount
    }

    /// Random keys and values of the operation's heads up to a position.
    func fill(_ elements: inout [UInt16], positions: Int, _ random: inout RandomValues) {
        for kind in 0..<2 {
            for head in 0..<Self.heads {
                for position in 0..<positions {
                    put(
                        random.halves(dimension), at: offset(kind: kind, head: head, position: position),
                        of: &elements)
                }
            }
        }
    }

    /// A row's keys and values, from [rows, 3, heads · dimension].
    func store(_ qkv: [Float16], row: Int, position: Int, to elements: inout [UInt16]) {
        let width = Self.heads * dimension
        for kind in 0..<2 {
            for head in 0..<Self.heads {
                let from = row * 3 * width + (1 + kind) * width + head * dimension
                put(
                    Array(qkv[from..<from + dimension]),
                    at: offset(kind: kind, head: head, position: position), of: &elements)
            }
        }
    }

    private func put(_ keyOrValue: [Float16], at start: Int, of elements: inout [UInt16]) {
        let packed = form.packed(keyOrValue)
        elements.replaceSubrange(start..<start + packed.count, with: packed)
    }

    /// The numbers of the first `count` positions from a place on.
    private func numbers(_ cache: [UInt16], at start: Int, count: Int) -> [Float16] {
        (0..<count).flatMap { position in
            form.elements(cache[(start + position * form.wordCount)...].prefix(form.wordCount))
        }
    }

    /// Compares a row of [rows, heads · dimension] with attention over the first `count` positions.
    func compare(
        _ found: [Float16], row: Int, queries: [Float16], cache: [UInt16], count: Int, scale: Double,
        _ deviation: inout Deviation
    ) {
        let width = Self.heads * dimension
        for head in 0..<Self.heads {
            let keysAt = offset(kind: 0, head: head, position: 0)
            let valuesAt = offset(kind: 1, head: head, position: 0)
            // Keys, then values: only they are turned into numbers.
            let own =
                numbers(cache, at: keysAt, count: count) + numbers(cache, at: valuesAt, count: count)
            let expected = ScalarReference.attention(
                queries, at: row * 3 * width + head * dimension, cache: own, keysAt: 0,
                valuesAt: count * dimension,
                count: count, dimension: dimension, scale: scale)
            for d in 0..<dimension {
                deviation.add(Double(found[row * width + head * dimension + d]), expected[d])
            }
        }
    }
}

extension RandomValues {
    /// [rows, 3, width], with queries so large that softmax prefers some positions.
    fileprivate mutating func queriesKeysValues(rows: Int, width: Int) -> [Float16] {
        var qkv = halves(rows * 3 * width)
        for row in 0..<rows {
            for i in 0..<width { qkv[row * 3 * width + i] *= 4 }
        }
        return qkv
    }
}
