import Foundation
import HostRuntime
import SystemPackage
import Testing

@testable import OPTModel

struct OffloadFileTests {
    @Test func `what was written comes back, and the folder stays empty`() throws {
        let folder = try TemporaryFolder()
        let file = try OffloadFile(in: folder.path)
        let blocks = 5
        let buffer = try HostBuffer(byteCount: blocks * OffloadFile.alignment)
        let words: UnsafeMutablePointer<UInt32> = buffer.pointer()
        for index in 0..<buffer.byteCount / 4 {
            words[index] = UInt32(truncatingIfNeeded: index &* 2_654_435_761)
        }
        let bytes = UnsafeRawBufferPointer(start: buffer.baseAddress, count: buffer.byteCount)
        try file.write(bytes, at: 3 * OffloadFile.alignment)
        let copy = try HostBuffer(byteCount: 2 * OffloadFile.alignment)
        let error = file.read(
            into: UnsafeMutableRawBufferPointer(start: copy.baseAddress, count: copy.byteCount),
            at: 4 * OffloadFile.alignment)
        #expect(error == nil)
        #expect(memcmp(copy.baseAddress, buffer.baseAddress + OffloadFile.alignment, copy.byteCount) == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path.string).isEmpty)
    }

    @Test func `reading behind the end is an error with the place`() throws {
        let folder = try TemporaryFolder()
        let file = try OffloadFile(in: folder.path)
        let buffer = try HostBuffer(byteCount: OffloadFile.alignment)
        let error = file.read(
            into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: buffer.byteCount), at: 8192)
        #expect(error?.code == .offload)
        #expect(error?.description.contains("8192") == true)
    }

    @Test func `a folder that cannot be written to is named, with the flag that helps`() {
        let error = #expect(throws: ModelError.self) { try OffloadFile(in: "/proc/nowhere") }
        #expect(error?.description.contains("/proc/nowhere") == true)
        #expect(error?.description.contains("--offload-dir") == true)
    }

    @Test func `room that is there is taken and reads as zeros, more is an error that says how much is free`()
        throws
    {
        let folder = try TemporaryFolder()
        let file = try OffloadFile(in: folder.path, holding: "keys and values")
        try file.reserve(byteCount: 2 * OffloadFile.alignment)
        var status = stat()
        #expect(fstat(file.descriptor, &status) == 0 && status.st_size == 2 * OffloadFile.alignment)
        let buffer = try HostBuffer(byteCount: OffloadFile.alignment)
        memset(buffer.baseAddress, 1, buffer.byteCount)
        let error = file.read(
            into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: buffer.byteCount),
            at: OffloadFile.alignment)
        #expect(error == nil)
        let bytes = UnsafeRawBufferPointer(start: buffer.baseAddress, count: buffer.byteCount)
        #expect(bytes.allSatisfy { $0 == 0 })

        let available = try #require(OffloadFile.availableByteCount(in: folder.path))
        let refusal = #expect(throws: ModelError.self) { try file.reserve(byteCount: available + 1 << 40) }
        #expect(refusal?.code == .offload)
        for part in ["keys and values", folder.path.string, "GiB are free", "--offload-dir"] {
            #expect(refusal?.description.contains(part) == true)
        }
    }

    @Test func `room is counted on the disk of a folder that is not there yet`() throws {
        let folder = try TemporaryFolder()
        let there = try #require(OffloadFile.availableByteCount(in: folder.path))
        let below = try #require(
            OffloadFile.availableByteCount(in: folder.path.appending("a").appending("b")))
        #expect(there > 0)
        // Other tests write to the same disk.
        #expect(abs(there - below) < 4 << 30)
    }
}

struct PlacedTableTests {
    @Test func `a row is found where its bytes lie`() {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 1000, alignment: 16)
        defer { memory.deallocate() }
        var table = PlacedTable(
            rowByteCount: 10, resident: 0..<4, residentAddress: 1 << 20, host: 4..<6, hostAddress: 1 << 30,
            hostBase: UnsafeRawPointer(memory),
            disk: [.init(rows: 6..<8, fileOffset: 4096), .init(rows: 8..<9, fileOffset: 8192)])
        func mapped(_ row: Int) -> UInt64? {
            if case .mapped(let address) = table.location(ofRow: row) { address } else { nil }
        }
        func onDisk(_ row: Int) -> Int? {
            if case .disk(let offset) = table.location(ofRow: row) { offset } else { nil }
        }
        for row in 0..<4 { #expect(mapped(row) == UInt64(1_048_576 + 10 * row)) }
        for row in 4..<6 { #expect(mapped(row) == UInt64(1_073_741_824 + 10 * (row - 4))) }
        let offsets: [Int?] = [onDisk(6), onDisk(7), onDisk(8)]
        #expect(offsets == [4096, 4106, 8192])
        #expect(!table.isMapped)
        table.disk = []
        #expect(table.isMapped)
        table.hostAddress = 0
        #expect(!table.isMapped)
        if case .host(let pointer) = table.location(ofRow: 5) {
            #expect(pointer == memory + 10)
        } else {
            Issue.record("row 5 is in CPU memory that is not pinned")
        }
    }
}
