import CPUKernels
import Checkpoints
import Glibc
import SystemPackage
import TensorCore
import Testing

/// The checkpoints that `Tests/Fixtures/make_checkpoint_fixtures.py` wrote.
enum Fixtures {
    static let folder = FilePath(#filePath).removingLastComponent().removingLastComponent()
        .appending("Fixtures").appending("Checkpoints")

    static let shapes: [String: Shape] = {
        var shapes: [String: Shape] = [
            "decoder.embed_tokens.weight": [11, 7], "decoder.embed_positions.weight": [5, 7],
            "decoder.final_layer_norm.weight": [7], "decoder.final_layer_norm.bias": [7],
        ]
        for layer in 0..<2 {
            shapes["decoder.layers.\(layer).fc1.weight"] = [28, 7]
            shapes["decoder.layers.\(layer).fc1.bias"] = [28]
            shapes["decoder.layers.\(layer).fc2.weight"] = [7, 28]
        }
        return shapes
    }()

    /// The script's formula.
    static func element(_ index: Int, of name: String, scalarType: ScalarType) -> Float {
        let salt = name.utf8.reduce(0) { $0 + Int($1) }
        let value = Float((37 * index + salt) % 255 - 127) / 64
        return scalarType == .float32 ? value + 0x1p-13 : value
    }

    static var kernels: UnsafePointer<tandem_cpu_kernels> { tandem_cpu_kernels_for(TANDEM_PORTABLE)! }
}

/// A folder that is removed at the end of the test.
final class TemporaryFolder {
    let path: FilePath

    init() throws {
        var template = Array("/tmp/tandem-checkpoints-XXXXXX".utf8CString)
        path = FilePath(String(cString: try #require(mkdtemp(&template))))
    }

    deinit {
        if let directory = opendir(path.string) {
            while let entry = readdir(directory) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                unlink(path.appending(name).string)
            }
            closedir(directory)
        }
        rmdir(path.string)
    }

    /// Writes pieces of a file at their offsets; what lies between is a hole.
    func write(_ name: String, pieces: [(offset: Int, bytes: [UInt8])]) throws {
        let file = try FileDescriptor.open(
            path.appending(name), .writeOnly, options: [.create, .truncate], permissions: .ownerReadWrite)
        try file.closeAfter {
            for piece in pieces {
                _ = try file.writeAll(toAbsoluteOffset: Int64(piece.offset), piece.bytes)
            }
        }
    }

    func write(_ name: String, _ bytes: [UInt8]) throws { try write(name, pieces: [(0, bytes)]) }

    func write(_ name: String, _ text: String) throws { try write(name, Array(text.utf8)) }
}

func contents(of path: FilePath) throws -> [UInt8] {
    let file = try FileDescriptor.open(path, .readOnly)
    return try file.closeAfter {
        let byteCount = Int(try file.seek(offset: 0, from: .end))
        return try [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
            count = try file.read(fromAbsoluteOffset: 0, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }
}

func littleEndian<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    withUnsafeBytes(of: number.littleEndian) { Array($0) }
}

/// A block as an array of rows; `padding` elements follow each row in memory and have to stay as they are.
func readBlock(
    _ source: some TensorSource, _ block: TensorBlock, transposed: Bool = false, padding: Int = 0
) throws -> [UInt16] {
    let (outer, inner) =
        transposed ? (block.columns.count, block.rows.count) : (block.rows.count, block.columns.count)
    let untouched: UInt16 = 0xDEAD
    var memory = [UInt16](repeating: untouched, count: outer * (inner + padding))
    try memory.withUnsafeMutableBufferPointer {
        try source.read(
            block, into: $0.baseAddress!, stride: inner + padding, transposed: transposed,
            kernels: Fixtures.kernels)
    }
    var elements: [UInt16] = []
    for row in 0..<outer {
        let start = row * (inner + padding)
        elements += memory[start..<start + inner]
        #expect(memory[start + inner..<start + inner + padding].allSatisfy { $0 == untouched })
    }
    return elements
}

func readVector(_ source: some TensorSource, _ name: String, _ elements: Range<Int>) throws -> [Float] {
    try [Float](unsafeUninitializedCapacity: elements.count) { buffer, count in
        try source.readVector(name, elements: elements, into: buffer.baseAddress!)
        count = elements.count
    }
}

/// Expects an error with a code, in this tensor, at this byte, whose text holds all of `words`.
@discardableResult
func expectError(
    _ code: CheckpointError.Code, tensor: String? = nil, byteOffset: Int? = nil, _ words: String...,
    sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void
) -> CheckpointError? {
    let error = #expect(throws: CheckpointError.self, sourceLocation: sourceLocation) { try body() }
    guard let error else { return nil }
    #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
    if let tensor { #expect(error.tensor == tensor, "\(error)", sourceLocation: sourceLocation) }
    if let byteOffset { #expect(error.byteOffset == byteOffset, "\(error)", sourceLocation: sourceLocation) }
    for word in words {
        #expect(error.description.contains(word), "\(error)", sourceLocation: sourceLocation)
    }
    return error
}
