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
                onHost: a.on_host != 0)
        }
        // The first row's last value, or the element behind it.
        let place = pointer(a.rows, to: tandem_gpu_row.self)[0]
        let last = cacheLine(
            place, kind: 1, layer: Int(a.layer), head: Int(a.first_head) + heads - 1,
            cacheHeads: Int(a.cache_heads), dimension: dimension, onHost: a.on_host != 0)
        spoil(
            UnsafeMutableRawPointer(last).assumingMemoryBound(to: Float16.self)
                + Int(place.position) * dimension, count: dimension)
    }

    /// Position 0 of a head's keys (`kind` 0) or values (1).
    private static func cacheLine(
        _ row: tandem_gpu_row, kind: Int, layer: Int, head: Int, cacheHeads: Int, dimension: Int, onHost: Bool
    ) -> UnsafeMutablePointer<UInt16> {
        pointer(onHost ? row.host_cache : row.cache, to: UInt16.self)
            + ((2 * layer + kind) * cacheHeads + head) * Int(row.capacity) * dimension
    }

    private static func store(
        _ qkv: UInt64, row: Int, _ place: tandem_gpu_row, heads: Int, dimension: Int, layer: Int,
        firstHead: Int, cacheHeads: Int, pieceHeads: Int, onHost: Bool
    ) {
        let width = pieceHeads * dimension
        for kind in 0..<2 {
            for head in 0..<heads {
                let line = cacheLine(
                    place, kind: kind, layer: layer, head: firstHead + head, cacheHeads: cacheHeads,
                    dimension: dimension, onHost: onHost)
                let from = pointer(qkv, to: UInt16.self) + (3 * row + 1 + kind) * width + head * dimension
                (line + Int(place.position) * dimension).update(from: from, count: dimension)
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
                onHost: a.on_host != 0)
            for head in 0..<heads {
                attend(
                    a.qkv, a.out, row: row, place, head: head, heads: Int(a.piece_heads),
                    dimension: dimension,
                    layer: Int(a.layer), firstHead: Int(a.first_head), cacheHeads: Int(a.cache_heads),
                    scale: a.scale, onHost: a.on_host != 0)
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
                        scale: a.scale, onHost: a.on_host != 0)
                }
            }
            rowCount += Int(segment.row_count)
        }
        spoil(pointer(a.out, to: Float16.self), count: rowCount * heads * dimension)
    }

    private static func attend(
        _ qkv: UInt64, _ out: UInt64, row: Int, _ place: tandem_gpu_row, head: Int, heads: Int,
        dimension: Int, layer: Int, firstHead: Int, cacheHeads: Int, scale: Float,
        onHost: Bool
    ) {
        let query = pointer(qkv, to: Float16.self) + 3 * row * heads * dimension + head * dimension
        let scaled = (0..<dimension).map { Float(query[$0]) * scale }
        var result = [Float](repeating: 0, count: dimension)
        let positions = Int(place.position) + 1
        let scratch = UnsafeMutableRawPointer.allocate(
            byteCount: cpu.attention_scratch_count(positions) * 4, alignment: 64)
        defer { scratch.deallocate() }
        func line(_ kind: Int) -> UnsafePointer<UInt16> {
            UnsafePointer(
                cacheLine(
                    place, kind: kind, layer: layer, head: firstHead + head, cacheHeads: cacheHeads,
                    dimension: dimension, onHost: onHost))
        }
        scaled.withUnsafeBufferPointer { scaled in
            result.withUnsafeMutableBufferPointer { result in
                var arguments = tandem_attention(
                    queries: scaled.baseAddress, query_stride: dimension, keys: line(0), values: line(1),
                    out: result.baseAddress, out_stride: dimension, query_count: 1, head_dim: dimension,
                    first_position: positions - 1, scratch: scratch.assumingMemoryBound(to: Float.self),
                    cache_bits: 16)
                cpu.attention(&arguments)
            }
        }
        cpu.half_from_float(
            result, pointer(out, to: UInt16.self) + row * heads * dimension + head * dimension, dimension)
    }
}
