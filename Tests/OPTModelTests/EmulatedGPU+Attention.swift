import CPUKernels
import CUDAKernelImage

@testable import OPTModel

/// Attention and its cache.
extension EmulatedGPU {
    static func store(_ a: tandem_gpu_store_keys_values, rowCount: Int) {
        let (heads, dimension) = (Int(a.heads), Int(a.head_dimension))
        for row in 0..<rowCount {
            let place = pointer(a.rows, to: tandem_gpu_row.self)[row]
            store(
                a.qkv, row: row, place, heads: heads, dimension: dimension, layer: Int(a.layer),
                firstHead: Int(a.first_head), cacheHeads: Int(a.cache_heads), pieceHeads: Int(a.piece_heads),
                onHost: a.on_host != 0, cacheBits: a.cache_bits)
        }
        // The first row's last value, or the element behind it; of 4 bits, the last two bytes, or those behind.
        let place = pointer(a.rows, to: tandem_gpu_row.self)[0]
        let bytes = positionByteCount(dimension, a.cache_bits)
        let last = cacheLine(
            place, kind: 1, layer: Int(a.layer), head: Int(a.first_head) + heads - 1,
            cacheHeads: Int(a.cache_heads), positionByteCount: bytes, onHost: a.on_host != 0)
        spoil(
            (last + Int(place.position) * bytes).assumingMemoryBound(to: Float16.self), count: bytes / 2)
    }

    private static func positionByteCount(_ dimension: Int, _ cacheBits: UInt32) -> Int {
        precondition(cacheBits == 4 || cacheBits == 16, "a cache in \(cacheBits) bits")
        return cacheBits == 4 ? tandem_quantized_position_bytes(dimension) : 2 * dimension
    }

    /// Position 0 of a head's keys (`kind` 0) or values (1).
    private static func cacheLine(
        _ row: tandem_gpu_row, kind: Int, layer: Int, head: Int, cacheHeads: Int, positionByteCount: Int,
        onHost: Bool
    ) -> UnsafeMutableRawPointer {
        let line = Int(row.capacity) * positionByteCount
        return UnsafeMutableRawPointer(pointer(onHost ? row.host_cache : row.cache, to: UInt8.self))
            + ((2 * layer + kind) * cacheHeads + head) * line
    }

    private static func store(
        _ qkv: UInt64, row: Int, _ place: tandem_gpu_row, heads: Int, dimension: Int, layer: Int,
        firstHead: Int, cacheHeads: Int, pieceHeads: Int, onHost: Bool, cacheBits: UInt32
    ) {
        let width = pieceHeads * dimension
        let bytes = positionByteCount(dimension, cacheBits)
        // As the kernels' copies want it.
        precondition(cacheBits == 16 || Int(place.capacity) * bytes % 16 == 0, "lines not at 16 bytes")
        for kind in 0..<2 {
            for head in 0..<heads {
                let line = cacheLine(
                    place, kind: kind, layer: layer, head: firstHead + head, cacheHeads: cacheHeads,
                    positionByteCount: bytes, onHost: onHost)
                let from = pointer(qkv, to: UInt16.self) + (3 * row + 1 + kind) * width + head * dimension
                let destination = line + Int(place.position) * bytes
                if cacheBits == 4 {
                    var values = [Float](repeating: 0, count: dimension)
                    cpu.float_from_half(from, &values, dimension)
                    cpu.quantize_position(values, destination, dimension)
                } else {
                    destination.copyMemory(from: from, byteCount: bytes)
                }
            }
        }
    }

    static func attentionDecode(_ a: tandem_gpu_attention_decode) {
        if a.on_host != 0 { hostCacheDecodeCount += 1 }
        let (heads, dimension) = (Int(a.heads), Int(a.head_dimension))
        for row in 0..<Int(a.row_count) {
            let place = pointer(a.rows, to: tandem_gpu_row.self)[row]
            precondition(
                Int(a.part_count) * Int(TANDEM_GPU_ATTENTION_PART) > Int(place.position), "too few parts")
            store(
                a.qkv, row: row, place, heads: heads, dimension: dimension, layer: Int(a.layer),
                firstHead: Int(a.first_head), cacheHeads: Int(a.cache_heads), pieceHeads: Int(a.piece_heads),
                onHost: a.on_host != 0, cacheBits: a.cache_bits)
            for head in 0..<heads {
                attend(
                    a.qkv, a.out, row: row, place, head: head, heads: Int(a.piece_heads),
                    dimension: dimension,
                    layer: Int(a.layer), firstHead: Int(a.first_head), cacheHeads: Int(a.cache_heads),
                    scale: a.scale, onHost: a.on_host != 0, cacheBits: a.cache_bits)
            }
        }
        spoil(pointer(a.out, to: Float16.self), count: Int(a.row_count) * heads * dimension)
    }

    static func attentionPrefill(_ a: tandem_gpu_attention_prefill) {
        let (heads, dimension) = (Int(a.heads), Int(a.head_dimension))
        var rowCount = 0
        for index in 0..<Int(a.segment_count) {
            let segment = pointer(a.segments, to: tandem_gpu_segment.self)[index]
            for row in Int(segment.first_row)..<Int(segment.first_row + segment.row_count) {
                let place = pointer(a.rows, to: tandem_gpu_row.self)[row]
                for head in 0..<heads {
                    attend(
                        a.qkv, a.out, row: row, place, head: head, heads: Int(a.piece_heads),
                        dimension: dimension,
                        layer: Int(a.layer), firstHead: Int(a.first_head), cacheHeads: Int(a.cache_heads),
                        scale: a.scale, onHost: a.on_host != 0, cacheBits: a.cache_bits)
                }
            }
            rowCount += Int(segment.row_count)
        }
        spoil(pointer(a.out, to: Float16.self), count: rowCount * heads * dimension)
    }

    private static func attend(
        _ qkv: UInt64, _ out: UInt64, row: Int, _ place: tandem_gpu_row, head: Int, heads: Int,
        dimension: Int, layer: Int, firstHead: Int, cacheHeads: Int, scale: Float,
        onHost: Bool, cacheBits: UInt32
    ) {
        let query = pointer(qkv, to: Float16.self) + 3 * row * heads * dimension + head * dimension
        let scaled = (0..<dimension).map { Float(query[$0]) * scale }
        var result = [Float](repeating: 0, count: dimension)
        let positions = Int(place.position) + 1
        let scratch = UnsafeMutableRawPointer.allocate(
            byteCount: cpu.attention_scratch_count(positions) * 4, alignment: 64)
        defer { scratch.deallocate() }
        func line(_ kind: Int) -> UnsafeRawPointer {
            UnsafeRawPointer(
                cacheLine(
                    place, kind: kind, layer: layer, head: firstHead + head, cacheHeads: cacheHeads,
                    positionByteCount: positionByteCount(dimension, cacheBits), onHost: onHost))
        }
        scaled.withUnsafeBufferPointer { scaled in
            result.withUnsafeMutableBufferPointer { result in
                var arguments = tandem_attention(
                    queries: scaled.baseAddress, query_stride: dimension, keys: line(0), values: line(1),
                    out: result.baseAddress, out_stride: dimension, query_count: 1, head_dim: dimension,
                    first_position: positions - 1, scratch: scratch.assumingMemoryBound(to: Float.self),
                    cache_bits: Int32(cacheBits))
                cpu.attention(&arguments)
            }
        }
        cpu.half_from_float(
            result, pointer(out, to: UInt16.self) + row * heads * dimension + head * dimension, dimension)
    }
}
