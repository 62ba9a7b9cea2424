import Checkpoints
import SystemPackage
import Testing

struct NumpyErrorTests {
    private let name = "decoder.embed_tokens.weight"

    private func open(_ bytes: [UInt8]) throws {
        let folder = try TemporaryFolder()
        try folder.write(name, bytes)
        _ = try CheckpointFiles(folder: folder.path)
    }

    private func file(_ header: String, version: UInt8 = 1, dataByteCount: Int) -> [UInt8] {
        let byteCount =
            version == 1 ? littleEndian(UInt16(header.utf8.count)) : littleEndian(UInt32(header.utf8.count))
        return [0x93] + Array("NUMPY".utf8) + [version, 0] + byteCount + Array(header.utf8)
            + [UInt8](repeating: 0, count: dataByteCount)
    }

    private let sound = "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }   \n"

    @Test func `accepts the header that numpy writes`() throws {
        for version in UInt8(1)...3 { try open(file(sound, version: version, dataByteCount: 12)) }
    }

    @Test func `refuses a file that does not begin as an array`() {
        expectError(.malformed, tensor: name, byteOffset: 0) { try open([]) }
        expectError(.malformed, tensor: name, byteOffset: 0) { try open(Array("no array at all".utf8)) }
        expectError(.unsupported, tensor: name, byteOffset: 6) {
            try open(file(sound, version: 4, dataByteCount: 12))
        }
    }

    @Test func `refuses an array in Fortran order`() {
        expectError(.unsupported, tensor: name, "Fortran") {
            try open(
                file("{'descr': '<f2', 'fortran_order': True, 'shape': (2, 3), }\n", dataByteCount: 12))
        }
    }

    @Test func `refuses an array whose length is not that of its shape`() {
        for dataByteCount in [0, 11, 13] {
            expectError(.malformed, tensor: name, byteOffset: 10 + sound.utf8.count, "[2, 3]") {
                try open(file(sound, dataByteCount: dataByteCount))
            }
        }
        expectError(.truncated, tensor: name) { try open(Array(file(sound, dataByteCount: 0).dropLast())) }
        expectError(.truncated) { try open(Array(file(sound, dataByteCount: 0).prefix(9))) }
    }

    @Test(arguments: ["<i8", ">f2", "|V2", "<f8"])
    func `refuses element types that it does not know`(type: String) {
        expectError(.unsupported, tensor: name, type) {
            try open(
                file("{'descr': '\(type)', 'fortran_order': False, 'shape': (2, 3), }\n", dataByteCount: 12))
        }
    }

    @Test(arguments: [
        "", "{", "{}", "{'descr': '<f2', 'fortran_order': False}", "{'descr': '<f2', 'descr': '<f2'}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (2, -3)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 99999999999999999999)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3)} x",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), 'more': 1}",
        "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (2, 3)}",
    ])
    func `refuses a header that is not numpy's`(header: String) {
        expectError(.malformed) { try open(file(header, dataByteCount: 12)) }
    }
}
