import CPUKernels
import Checkpoints
import SystemPackage
import TensorCore
import Testing

struct ReadingTests {
    static let checkpoints: [(folder: String, scalarType: ScalarType, format: String)] = [
        ("safetensors-fp16", .float16, "safetensors, 1 file"),
        ("safetensors-bf16", .bfloat16, "safetensors, 1 file"),
        ("safetensors-fp32", .float32, "safetensors, 1 file"),
        ("safetensors-sharded-bf16", .bfloat16, "safetensors, 2 shards"),
        ("torch-fp16", .float16, "PyTorch, 1 file"),
        ("torch-fp32-views", .float32, "PyTorch, 1 file"),
        ("torch-sharded-bf16", .bfloat16, "PyTorch, 2 shards"),
        ("torch-tied", .float16, "PyTorch, 1 file"),
        ("numpy-fp16", .float16, "numpy, 11 files"),
        ("numpy-fp32", .float32, "numpy, 11 files"),
    ]

    /// What a block has to hold, from the formula.
    static func expected(
        _ block: TensorBlock, shape: Shape, scalarType: ScalarType, transposed: Bool
    ) -> [UInt16] {
        let columnCount = shape.dimensions.last!
        func bits(_ row: Int, _ column: Int) -> UInt16 {
            // The tied output projection holds the token embedding's values.
            Float16(Fixtures.element(row * columnCount + column, of: block.name, scalarType: scalarType))
                .bitPattern
        }
        return transposed
            ? block.columns.flatMap { column in block.rows.map { bits($0, column) } }
            : block.rows.flatMap { row in block.columns.map { bits(row, $0) } }
    }

    @Test(arguments: checkpoints)
    func `reads every element of every tensor, in whole and in blocks, straight and transposed`(
        folder: String, scalarType: ScalarType, format: String
    ) throws {
        let path = Fixtures.folder.appending(folder)
        let checkpoint = try CheckpointFiles(folder: path)
        #expect(checkpoint.origin == "\(path) (\(format))")
        for (name, shape) in Fixtures.shapes {
            let found = try checkpoint.require(name, shape: shape)
            #expect(found == TensorSpecification(name: name, shape: shape, scalarType: scalarType))
            let rowCount = shape.rank == 2 ? shape.dimensions[0] : 1
            let columnCount = shape.dimensions.last!
            let rowRanges = [0..<rowCount, rowCount / 3..<rowCount, 0..<(rowCount + 1) / 2]
            let columnRanges = [0..<columnCount, 1..<columnCount - 1, 3..<4, columnCount - 2..<columnCount]
            for rows in rowRanges {
                for columns in columnRanges {
                    let block = TensorBlock(name: name, rows: rows, columns: columns)
                    for transposed in [false, true] {
                        let read = try readBlock(checkpoint, block, transposed: transposed, padding: 3)
                        let expected = Self.expected(
                            block, shape: shape, scalarType: scalarType, transposed: transposed)
                        #expect(read == expected, "\(block) transposed \(transposed)")
                    }
                }
            }
        }
    }

    @Test(arguments: checkpoints)
    func `reads vectors in fp32 without rounding them to fp16`(
        folder: String, scalarType: ScalarType, format: String
    ) throws {
        let checkpoint = try CheckpointFiles(folder: Fixtures.folder.appending(folder))
        for (name, shape) in Fixtures.shapes where shape.rank == 1 {
            for range in [0..<shape.dimensions[0], 3..<5] {
                let expected = range.map { Fixtures.element($0, of: name, scalarType: scalarType) }
                #expect(try readVector(checkpoint, name, range) == expected)
            }
        }
    }

    @Test func `an empty block touches nothing`() throws {
        let checkpoint = try CheckpointFiles(folder: Fixtures.folder.appending("safetensors-fp16"))
        var untouched: UInt16 = 0xDEAD
        for (rows, columns) in [(3..<3, 0..<7), (0..<28, 7..<7)] {
            try checkpoint.read(
                TensorBlock(name: "decoder.layers.0.fc1.weight", rows: rows, columns: columns),
                into: &untouched, stride: 7, transposed: false, kernels: Fixtures.kernels)
        }
        #expect(untouched == 0xDEAD)
    }

    @Test func `prefers safetensors where both formats are there`() throws {
        let folder = try TemporaryFolder()
        try folder.write(
            "model.safetensors",
            try contents(of: Fixtures.folder.appending("safetensors-bf16/model.safetensors")))
        try folder.write("pytorch_model.bin", "not looked at")
        let checkpoint = try CheckpointFiles(folder: folder.path)
        #expect(checkpoint.origin.hasSuffix("(safetensors, 1 file)"))
    }

    @Test func `reads tensors larger than one step of a read`() throws {
        // 9 MiB: three steps, of which the last is a part.
        let (rowCount, columnCount) = (1153, 4096)
        let bits = (0..<rowCount * columnCount).map { UInt16(truncatingIfNeeded: $0 &* 40503) & 0x7BFF }
        var bytes = SafetensorsText([("w", "F16", [rowCount, columnCount], 0..<bits.count * 2)]).bytes
        bits.withUnsafeBytes { bytes += $0 }
        let folder = try TemporaryFolder()
        try folder.write("model.safetensors", bytes)
        let checkpoint = try CheckpointFiles(folder: folder.path)
        let whole = TensorBlock(name: "w", rows: 0..<rowCount, columns: 0..<columnCount)
        #expect(try readBlock(checkpoint, whole) == bits)
        let part = TensorBlock(name: "w", rows: 1..<rowCount, columns: 4000..<4003)
        let expected = part.columns.flatMap { column in part.rows.map { bits[$0 * columnCount + column] } }
        #expect(try readBlock(checkpoint, part, transposed: true) == expected)
    }
}
