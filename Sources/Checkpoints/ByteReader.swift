import SystemPackage

/// Reads little-endian numbers and strings from the front of a piece of a file; an overrun is thrown.
struct ByteReader {
    let bytes: [UInt8]
    /// Where the piece lies in the file, for messages.
    let fileOffset: Int
    let file: FilePath
    private(set) var position = 0

    init(_ bytes: [UInt8], fileOffset: Int, file: FilePath) {
        self.bytes = bytes
        self.fileOffset = fileOffset
        self.file = file
    }

    /// The offset of the next byte in the file.
    var byteOffset: Int { fileOffset + position }
    var remainingCount: Int { bytes.count - position }

    mutating func skip(_ count: Int) throws(CheckpointError) {
        guard count >= 0, count <= remainingCount else {
            throw error(.truncated, "\(count) more bytes should follow, and \(remainingCount) do.")
        }
        position += count
    }

    mutating func integer<Number: FixedWidthInteger>(_ type: Number.Type) throws(CheckpointError) -> Number {
        let start = position
        try skip(MemoryLayout<Number>.size)
        var value: Number = 0
        for byte in bytes[start..<position].reversed() {
            value = value << 8 | Number(truncatingIfNeeded: byte)
        }
        return value
    }

    /// An unsigned 16-, 32- or 64-bit number that has to fit into Int.
    mutating func count<Number: FixedWidthInteger & UnsignedInteger>(
        _ type: Number.Type
    ) throws(CheckpointError) -> Int {
        let offset = position
        let value = try integer(type)
        guard let count = Int(exactly: value) else {
            position = offset
            throw error(.malformed, "The number \(value) is too large for a size.")
        }
        return count
    }

    mutating func byte() throws(CheckpointError) -> UInt8 { try integer(UInt8.self) }

    mutating func string(byteCount: Int) throws(CheckpointError) -> String {
        let start = position
        try skip(byteCount)
        guard let string = String(validating: bytes[start..<position], as: UTF8.self) else {
            position = start
            throw error(.malformed, "These \(byteCount) bytes are no UTF-8 text.")
        }
        return string
    }

    /// The bytes up to a line feed, which is consumed.
    mutating func line() throws(CheckpointError) -> String {
        guard let end = bytes[position...].firstIndex(of: 0x0A) else {
            throw error(.truncated, "The line does not end.")
        }
        let line = try string(byteCount: end - position)
        try skip(1)
        return line
    }

    func error(_ code: CheckpointError.Code, _ sentence: String) -> CheckpointError {
        CheckpointError(code, file: file, byteOffset: byteOffset, sentence)
    }
}
