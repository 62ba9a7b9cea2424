import Checkpoints
import Glibc
import SystemPackage
import Testing

struct SafetensorsErrorTests {
    /// Opens a folder with this file as its only one.
    private func open(_ bytes: [UInt8]) throws {
        let folder = try TemporaryFolder()
        try folder.write("model.safetensors", bytes)
        _ = try CheckpointFiles(folder: folder.path)
    }

    @Test func `refuses a file that is cut anywhere`() throws {
        let whole = try contents(of: Fixtures.folder.appending("safetensors-fp16/model.safetensors"))
        for count in [0, 7, 8, 100, whole.count - 500, whole.count - 1] {
            let error = #expect(throws: CheckpointError.self) { try open(Array(whole.prefix(count))) }
            #expect(error?.code == .truncated, "\(count) bytes: \(error.debugDescription)")
            #expect(error?.byteOffset != nil)
        }
    }

    @Test func `names the first tensor that a cut file lacks, and its offset`() throws {
        let file = SafetensorsText([("a", "F16", [4], 0..<8), ("b", "F32", [2, 2], 8..<24)])
        let offset = file.bytes.count + 8
        expectError(.truncated, tensor: "b", byteOffset: offset, "model.safetensors") {
            try open(file.bytes(dataByteCount: 23))
        }
    }

    @Test func `refuses a header that is longer than the file`() {
        expectError(.truncated, byteOffset: 0, "1000") {
            try open(littleEndian(UInt64(1000)) + [0x7B, 0x7D])
        }
        expectError(.truncated, byteOffset: 0) { try open(littleEndian(UInt64.max) + [0x7B, 0x7D]) }
    }

    @Test(arguments: [
        ("no json", 8), ("{\"a\":", 13), ("{} x", 11), ("[", 9), ("{\"a\" 1}", 13), ("{\"a\":1e3}", 13),
        ("{\"a\":\"\\q\"}", 15), ("{\"a\":\"\\ud800\"}", 20), ("{\"a\":01}", 13),
        ("{\"a\":99999999999999999999}", 13),
        ("[]", 8),
    ])
    func `refuses a header that is no JSON object`(header: String, byteOffset: Int) {
        expectError(.malformed, byteOffset: byteOffset) { try open(SafetensorsText(header: header).bytes) }
    }

    @Test func `refuses a header that nests so deeply that it could overflow the stack`() {
        for bracket in ["[", "{\"a\":"] {
            let header = String(repeating: bracket, count: 100_000)
            expectError(.malformed, byteOffset: 8 + 16 * bracket.utf8.count, "nests deeper") {
                try open(SafetensorsText(header: header).bytes)
            }
        }
    }

    @Test func `refuses a key that stands twice, at any level`() {
        let tensor = "{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}"
        expectError(.malformed, byteOffset: 8 + 2 + 4 + tensor.utf8.count, "\"a\" stands twice") {
            try open(
                SafetensorsText(header: "{\"a\":\(tensor),\"\\u0061\":\(tensor)}").bytes(dataByteCount: 2))
        }
        let inner = "{\"dtype\":\"F16\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}"
        expectError(.malformed, byteOffset: 28, "\"dtype\" stands twice") {
            try open(SafetensorsText(header: "{\"a\":\(inner)}").bytes(dataByteCount: 2))
        }
    }

    @Test func `refuses tensors that overlap`() {
        let file = SafetensorsText([("a", "F16", [4], 0..<8), ("b", "F16", [4], 6..<14)])
        expectError(.malformed, tensor: "b", byteOffset: file.bytes.count + 6, "overlaps") {
            try open(file.bytes(dataByteCount: 14))
        }
    }

    @Test func `refuses a gap between tensors, before them and after them`() {
        let between = SafetensorsText([("a", "F16", [4], 0..<8), ("b", "F16", [4], 10..<18)])
        expectError(.malformed, tensor: "b", byteOffset: between.bytes.count + 10, "gap of 2 bytes") {
            try open(between.bytes(dataByteCount: 18))
        }
        let before = SafetensorsText([("a", "F16", [4], 2..<10)])
        expectError(.malformed, tensor: "a", "gap of 2 bytes") { try open(before.bytes(dataByteCount: 10)) }
        let after = SafetensorsText([("a", "F16", [4], 0..<8)])
        expectError(.malformed, byteOffset: after.bytes.count + 8, "1 bytes follow") {
            try open(after.bytes(dataByteCount: 9))
        }
    }

    @Test func `refuses offsets outside the file`() {
        let behind = SafetensorsText([("a", "F16", [4], 1000..<1008)])
        expectError(.truncated, tensor: "a", byteOffset: behind.bytes.count + 1000) {
            try open(behind.bytes(dataByteCount: 8))
        }
        let huge = SafetensorsText([("a", "F16", [4], Int.max - 8..<Int.max)])
        expectError(.truncated, tensor: "a") { try open(huge.bytes(dataByteCount: 8)) }
        for offsets in ["[8,0]", "[-8,0]", "[0]", "[0,8,9]", "[\"0\",8]", "8"] {
            let header = "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":\(offsets)}}"
            expectError(.malformed, tensor: "a", byteOffset: 55, "data_offsets") {
                try open(SafetensorsText(header: header).bytes(dataByteCount: 8))
            }
        }
    }

    @Test func `refuses offsets that disagree with the shape and the type`() {
        let shapes = [[5], [2, 3], [], [Int.max, Int.max], [0], [Int.max]]
        for shape in shapes {
            let file = SafetensorsText([("a", "F16", shape, 0..<8)])
            expectError(.malformed, tensor: "a", byteOffset: file.bytes.count, "shape") {
                try open(file.bytes(dataByteCount: 8))
            }
        }
        expectError(.malformed, tensor: "a", "shape") {
            try open(SafetensorsText([("a", "F16", [-4, -1], 0..<8)]).bytes(dataByteCount: 8))
        }
        expectError(.malformed, tensor: "a", "\"shape\"") {
            try open(SafetensorsText(header: "{\"a\":{\"dtype\":\"F16\",\"shape\":4}}").bytes)
        }
    }

    @Test func `refuses element types that it does not know`() {
        for dtype in ["I64", "F8_E4M3", "f16", ""] {
            expectError(.unsupported, tensor: "a", byteOffset: 22, "element type \(dtype) is not read") {
                try open(SafetensorsText([("a", dtype, [4], 0..<8)]).bytes(dataByteCount: 8))
            }
        }
        expectError(.malformed, tensor: "a", "dtype") {
            try open(SafetensorsText(header: "{\"a\":{}}").bytes)
        }
    }

    @Test func `refuses two stored tensors of one canonical name`() {
        let file = SafetensorsText([
            ("decoder.fc1.weight", "F16", [4], 0..<8), ("model.decoder.fc1.weight", "F16", [4], 8..<16),
        ])
        expectError(.ambiguousName, "decoder.fc1.weight", "model.decoder.fc1.weight") {
            try open(file.bytes(dataByteCount: 16))
        }
        let aliases = SafetensorsText([
            ("decoder.final_layer_norm.bias", "F16", [4], 0..<8),
            ("decoder.layer_norm.bias", "F16", [4], 8..<16),
        ])
        expectError(.ambiguousName) { try open(aliases.bytes(dataByteCount: 16)) }
    }

    @Test func `refuses to read on when the file was cut or replaced after it was opened`() throws {
        for replace in [false, true] {
            let folder = try TemporaryFolder()
            let path = folder.path.appending("model.safetensors")
            let bytes = SafetensorsText([("w", "F16", [4, 1024], 0..<8192)]).bytes(dataByteCount: 8192)
            try folder.write("model.safetensors", bytes)
            let checkpoint = try CheckpointFiles(folder: folder.path)
            if replace { unlink(path.string) }
            try folder.write("model.safetensors", Array(bytes.prefix(replace ? bytes.count : 4096)))
            expectError(.changed, tensor: "w", "model.safetensors") {
                _ = try readBlock(checkpoint, .init(name: "w", rows: 0..<4, columns: 0..<1024))
            }
        }
    }

    @Test func `names the tensor and the byte of a finite value that fp16 cannot hold`() throws {
        let values: [(Float, Bool)] = [
            (65504, true), (65519.996, true), (65520, false), (-70000, false), (.infinity, true),
            (1e30, false),
        ]
        for (value, fits) in values {
            let file = SafetensorsText([("w", "F32", [2, 3], 0..<24)])
            var bytes = file.bytes(dataByteCount: 24)
            let offset = file.bytes.count + 16
            bytes.replaceSubrange(offset..<offset + 4, with: littleEndian(value.bitPattern))
            let folder = try TemporaryFolder()
            try folder.write("model.safetensors", bytes)
            let checkpoint = try CheckpointFiles(folder: folder.path)
            let block = TensorBlock(name: "w", rows: 0..<2, columns: 1..<3)
            if fits {
                #expect(try readBlock(checkpoint, block)[2] == Float16(value).bitPattern)
            } else {
                expectError(.overflow, tensor: "w", byteOffset: offset, "float32") {
                    _ = try readBlock(checkpoint, block)
                }
            }
        }
    }
}
