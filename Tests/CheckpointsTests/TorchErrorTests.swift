import Checkpoints
import SystemPackage
import TensorCore
import Testing

struct TorchErrorTests {
    private func open(_ bytes: [UInt8]) throws {
        let folder = try TemporaryFolder()
        try folder.write("pytorch_model.bin", bytes)
        _ = try CheckpointFiles(folder: folder.path)
    }

    private let storage = [UInt8](repeating: 0, count: 12)

    /// An archive of this pickle and one storage of 12 bytes; and where the pickle begins in it.
    private func archive(_ pickle: [UInt8]) -> (bytes: [UInt8], pickleOffset: Int) {
        var zip = ZipWriter()
        let offset = zip.add("archive/data.pkl", pickle)
        zip.add("archive/data/0", storage)
        zip.finish(zip64: false)
        return (zip.bytes, offset)
    }

    /// Expects an error at an offset in the pickle.
    private func expectPickleError(
        _ code: CheckpointError.Code, _ pickle: [UInt8], at offset: Int, _ word: String,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let (bytes, pickleOffset) = archive(pickle)
        expectError(code, byteOffset: pickleOffset + offset, word, sourceLocation: sourceLocation) {
            try open(bytes)
        }
    }

    @Test func `opens a sound archive, with or without zip64 records and descriptors`() throws {
        for (zip64, streamed) in [(false, false), (false, true), (true, false), (true, true)] {
            var zip = ZipWriter()
            zip.add("archive/data.pkl", Pickle.dictionary([PickledTensor()]), streamed: streamed)
            zip.add("archive/data/0", storage, streamed: streamed)
            zip.finish(zip64: zip64)
            try open(zip.bytes)
        }
    }

    // MARK: The pickle

    @Test func `refuses a pickle that runs code`() {
        let call = Pickle.string("echo") + [0x85] + Pickle.reduce + Array(".".utf8)
        let system = Pickle.start + Pickle.global("os", "system") + call
        expectPickleError(.unsupported, system, at: 2, "os.system")
        expectPickleError(
            .unsupported, Pickle.start + Pickle.global("builtins", "eval") + call, at: 2, "builtins.eval")
    }

    @Test func `refuses every opcode that builds no tensors`() {
        let opcodes = [
            0x69, 0x6F, 0x81, 0x82, 0x83, 0x84, 0x92, 0x93, 0x95, 0x5D, 0x47, 0x49, 0x50, 0x56, 0xFF,
        ]
        for opcode in opcodes {
            expectPickleError(
                .unsupported, Pickle.start + [UInt8(opcode), 0], at: 2,
                "0x\(String(opcode, radix: 16, uppercase: true))")
        }
    }

    @Test func `refuses other protocols and broken programs`() {
        expectPickleError(.unsupported, [0x80, 4, 0x7D, 0x2E], at: 0, "protocol 2")
        let programs: [(String, Int, CheckpointError.Code)] = [
            (".", 0, .malformed), ("}u.", 1, .malformed), ("(.", 1, .malformed), ("t", 0, .malformed),
            ("h\u{1}", 0, .malformed), ("q\u{1}", 0, .malformed), ("R", 0, .malformed),
            ("}}.", 2, .malformed),
            ("}(NNu.", 4, .unsupported), ("}(Nu.", 3, .malformed), ("NQ", 1, .unsupported),
            ("Nb", 1, .unsupported), ("N.", 1, .unsupported), (")\u{85}\u{85}R", 3, .malformed),
            ("}N}b", 3, .unsupported), ("}(}s", 3, .malformed),
        ]
        for (program, offset, code) in programs {
            let opcodes = program.unicodeScalars.map { UInt8($0.value) }
            expectPickleError(code, Pickle.start + opcodes, at: 2 + offset, "pickle")
        }
        expectPickleError(.truncated, Pickle.start + Array("X".utf8) + [200, 0, 0, 0], at: 7, "200")
        expectPickleError(.truncated, Pickle.start + Array("cos".utf8), at: 3, "line")
    }

    @Test func `refuses a key that stands twice`() {
        let pickle = Pickle.dictionary([PickledTensor(), PickledTensor()])
        let (bytes, _) = archive(pickle)
        expectError(.malformed, "\"decoder.a\" twice") { try open(bytes) }
    }

    @Test func `refuses what is no plain state dictionary`() {
        let pickle = Pickle.start + Array("}".utf8) + Pickle.string("epoch") + Array("K\u{3}s.".utf8)
        let (bytes, _) = archive(pickle)
        expectError(.unsupported, "epoch") { try open(bytes) }
    }

    @Test func `refuses element types that a model's weights do not have`() {
        let (bytes, _) = archive(Pickle.dictionary([PickledTensor(type: "LongStorage")]))
        expectError(.unsupported, "torch.LongStorage") { try open(bytes) }
    }

    @Test func `refuses strides that are not those of contiguous rows`() throws {
        for (shape, strides) in [
            ([3, 2], [1, 3]), ([2, 3], [0, 0]), ([2, 2], [3, 1]), ([2, 3], [-3, 1]),
        ] {
            let (bytes, _) = archive(Pickle.dictionary([PickledTensor(shape: shape, strides: strides)]))
            expectError(.unsupported, tensor: "decoder.a", "strides", "contiguous()") { try open(bytes) }
        }
        // An extent of 1 is never stepped over.
        try open(archive(Pickle.dictionary([PickledTensor(shape: [1, 6], strides: [1, 1])])).bytes)
    }

    @Test func `refuses a tensor that reaches past its storage`() {
        let tensors = [
            PickledTensor(offset: 1), PickledTensor(shape: [3, 3]), PickledTensor(offset: Int.max),
            PickledTensor(shape: [Int.max, 3]),
            PickledTensor(shape: [Int.max, Int.max], strides: [Int.max, 1]),
        ]
        for tensor in tensors {
            let (bytes, _) = archive(Pickle.dictionary([tensor]))
            expectError(.malformed, tensor: "decoder.a", "storage data/0") { try open(bytes) }
        }
        for tensor in [PickledTensor(offset: -1), PickledTensor(shape: [-2, 3]), PickledTensor(shape: [6])] {
            let (bytes, _) = archive(Pickle.dictionary([tensor]))
            expectError(.unsupported, "_rebuild_tensor_v2") { try open(bytes) }
        }
    }

    @Test func `refuses a storage whose size is not what the pickle says`() {
        for elementCount in [5, 7, Int.max] {
            let (bytes, _) = archive(Pickle.dictionary([PickledTensor(elementCount: elementCount)]))
            expectError(.malformed, tensor: "decoder.a", "\(elementCount) elements", "12 bytes") {
                try open(bytes)
            }
        }
        let (bytes, _) = archive(Pickle.dictionary([PickledTensor(key: "1")]))
        expectError(.malformed, tensor: "decoder.a", "lacks", "data/1") { try open(bytes) }
    }

    // MARK: The archive

    @Test func `refuses compressed and encrypted entries`() {
        for (lies, word) in [(ZipWriter.Lies(method: 8), "compressed"), (.init(flags: 9), "encrypted")] {
            var zip = ZipWriter()
            zip.add("archive/data.pkl", Pickle.dictionary([]), lies: lies)
            zip.finish(zip64: false)
            expectError(.unsupported, "archive/data.pkl", word) { try open(zip.bytes) }
        }
    }

    @Test func `refuses an entry of which two records disagree`() {
        let lies: [(ZipWriter.Lies, streamed: Bool)] = [
            (.init(localByteCount: 1), false), (.init(descriptorByteCount: 1), true),
            (.init(centralByteCount: -1), true), (.init(centralByteCount: 1), false),
            (.init(centralByteCount: 1000), true), (.init(centralByteCount: 1 << 40), true),
            (.init(centralStoredByteCount: 1), true), (.init(localName: "archive/data/1"), true),
            (.init(localName: "b"), true), (.init(localOffset: 4), true), (.init(localOffset: 1 << 20), true),
            (.init(localOffset: 1 << 50), true),
        ]
        for (lie, streamed) in lies {
            var zip = ZipWriter()
            zip.add("archive/data.pkl", Pickle.dictionary([PickledTensor()]))
            zip.add("archive/data/0", storage, lies: lie, streamed: streamed)
            zip.finish(zip64: true)
            let error = expectError(.malformed, "archive/data/0") { try open(zip.bytes) }
            #expect(error?.byteOffset != nil, "\(lie)")
        }
    }

    @Test func `refuses an entry that reaches past the file to where the next one is said to be`() {
        var zip = ZipWriter()
        zip.add("archive/data.pkl", Pickle.dictionary([]), lies: .init(centralByteCount: 1 << 20))
        zip.add("archive/data/0", storage, lies: .init(localOffset: 1 << 30))
        zip.finish(zip64: true)
        expectError(.malformed, byteOffset: 0, "archive/data.pkl") { try open(zip.bytes) }
    }

    @Test func `refuses end records that lie`() {
        for zip64 in [false, true] {
            for (entryCount, byteCount) in [(1, 0), (-1, 0), (0, 1), (0, -1), (1000, 0), (0, 100_000)] {
                var zip = ZipWriter()
                zip.add("archive/data.pkl", Pickle.dictionary([]))
                zip.finish(zip64: zip64, entryCountLie: entryCount, directoryByteCountLie: byteCount)
                let error = #expect(throws: CheckpointError.self) { try open(zip.bytes) }
                #expect(error?.byteOffset != nil)
            }
        }
    }

    @Test func `refuses an entry that stands twice, and an archive without a pickle`() {
        var twice = ZipWriter()
        twice.add("archive/data.pkl", Pickle.dictionary([]))
        twice.add("archive/data.pkl", Pickle.dictionary([]))
        twice.finish(zip64: false)
        expectError(.malformed, "archive/data.pkl twice") { try open(twice.bytes) }
        var none = ZipWriter()
        none.add("archive/data/0", storage)
        none.finish(zip64: false)
        expectError(.malformed, "data.pkl") { try open(none.bytes) }
    }

    @Test func `refuses numbers of the other byte order`() {
        var zip = ZipWriter()
        zip.add("archive/data.pkl", Pickle.dictionary([]))
        zip.add("archive/byteorder", Array("big".utf8))
        zip.finish(zip64: false)
        expectError(.unsupported, "little-endian") { try open(zip.bytes) }
    }

    @Test func `refuses an archive that is cut anywhere`() throws {
        let whole = try contents(of: Fixtures.folder.appending("torch-fp16/pytorch_model.bin"))
        for count in stride(from: 0, to: whole.count, by: 97) {
            let error = #expect(throws: CheckpointError.self) { try open(Array(whole.prefix(count))) }
            #expect(error?.byteOffset != nil)
        }
    }

    @Test func `says how to convert a file of torch before version 1_6`() {
        expectError(.unsupported, byteOffset: 0, "torch.save(torch.load(") {
            _ = try CheckpointFiles(folder: Fixtures.folder.appending("torch-legacy"))
        }
    }

    @Test func `reads tensors behind and across 4 GiB`() throws {
        // 5.2 GB of zeros with known values at the end; the file is a hole and takes a few KB of disk.
        let (rowCount, columnCount) = (65536, 40000)
        let last = (0..<4).map { UInt16(0x3C00 + $0) }
        let lastBytes = last.flatMap { littleEndian($0) }
        let byteCount = rowCount * columnCount * 2
        let small = [UInt16](0..<6)
        var zip = ZipWriter()
        zip.add("archive/data/0", lastBytes, holeByteCount: byteCount - lastBytes.count)
        zip.add("archive/data/1", small.flatMap { littleEndian($0) })
        zip.add(
            "archive/data.pkl",
            Pickle.dictionary([
                PickledTensor(
                    name: "decoder.large", elementCount: rowCount * columnCount,
                    shape: [rowCount, columnCount],
                    strides: [columnCount, 1]),
                PickledTensor(name: "decoder.small", key: "1"),
            ]))
        zip.finish(zip64: true)
        let folder = try TemporaryFolder()
        try folder.write("pytorch_model.bin", pieces: zip.pieces)
        let checkpoint = try CheckpointFiles(folder: folder.path)
        let block = TensorBlock(
            name: "decoder.large", rows: rowCount - 1..<rowCount, columns: columnCount - 5..<columnCount)
        #expect(try readBlock(checkpoint, block) == [0] + last)
        #expect(
            try readBlock(checkpoint, TensorBlock(name: "decoder.small", rows: 0..<2, columns: 0..<3))
                == small)
    }
}
