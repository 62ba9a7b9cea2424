import SystemPackage
import TensorCore

/// A .npy file: magic, version, a Python dictionary as the header, and the elements.
///
/// numpy's documentation, `numpy.lib.format`: versions 1 to 3 differ in the width of the header's size and in
/// its encoding only.
struct NumpyFile {
    let tensor: StoredTensor

    /// `name`: the tensor's name, which the file does not hold.
    init(_ path: FilePath, name: String) throws(CheckpointError) {
        let file = try MappedFile(path)
        func error(_ code: CheckpointError.Code, at offset: Int, _ sentence: String) -> CheckpointError {
            CheckpointError(code, file: path, tensor: name, byteOffset: offset, sentence)
        }
        let prefix = try file.bytes(0..<min(12, file.byteCount))
        guard prefix.starts(with: [0x93] + Array("NUMPY".utf8)) else {
            throw error(.malformed, at: 0, "This is no .npy file. Convert the model again.")
        }
        var reader = ByteReader(prefix, fileOffset: 0, file: path)
        try reader.skip(6)
        let version = try reader.byte()
        guard (1...3).contains(version), try reader.byte() == 0 else {
            throw error(.unsupported, at: 6, "The .npy file's version is not 1.0, 2.0 or 3.0.")
        }
        let headerByteCount = try version == 1 ? reader.count(UInt16.self) : reader.count(UInt32.self)
        let headerOffset = reader.position
        let dataOffset = headerOffset + headerByteCount
        guard dataOffset <= file.byteCount else {
            throw error(
                .truncated, at: headerOffset,
                "The header's \(headerByteCount) bytes reach past the end of the file at byte "
                    + "\(file.byteCount). Convert the model again.")
        }
        let header = try NumpyHeader(
            try file.bytes(headerOffset..<dataOffset), fileOffset: headerOffset, file: path)
        let scalarTypes: [String: ScalarType] = ["<f2": .float16, "<f4": .float32]
        guard let scalarType = scalarTypes[header.elementType] else {
            throw error(
                .unsupported, at: headerOffset,
                "The element type '\(header.elementType)' is not read; '<f2' and '<f4' are.")
        }
        guard !header.isFortranOrder else {
            throw error(
                .unsupported, at: headerOffset,
                "The array is in Fortran order. Call numpy.ascontiguousarray on it before saving.")
        }
        tensor = try StoredTensor(
            name: name, shape: header.shape, scalarType: scalarType, file: file, byteOffset: dataOffset,
            byteCount: file.byteCount - dataOffset)
    }
}

/// A header such as {'descr': '<f2', 'fortran_order': False, 'shape': (4, 4), }, padded with spaces.
private struct NumpyHeader {
    let elementType: String
    let isFortranOrder: Bool
    let shape: Shape

    init(_ bytes: [UInt8], fileOffset: Int, file: FilePath) throws(CheckpointError) {
        var scanner = Scanner(rest: bytes[...], fileOffset: fileOffset, file: file)
        var elementType: String?
        var isFortranOrder: Bool?
        var shape: Shape?
        try scanner.expect("{")
        while !scanner.take("}") {
            let key = try scanner.quotedString()
            try scanner.expect(":")
            switch key {
            case "descr" where elementType == nil: elementType = try scanner.quotedString()
            case "fortran_order" where isFortranOrder == nil: isFortranOrder = try scanner.boolean()
            case "shape" where shape == nil: shape = try scanner.shape()
            default: throw scanner.error("the key '\(key)' does not belong here")
            }
            if scanner.take("}") { break }
            try scanner.expect(",")
        }
        guard scanner.isAtEnd else { throw scanner.error("something follows the dictionary") }
        guard let elementType, let isFortranOrder, let shape else {
            throw scanner.error("'descr', 'fortran_order' or 'shape' is missing")
        }
        self.elementType = elementType
        self.isFortranOrder = isFortranOrder
        self.shape = shape
    }

    private struct Scanner {
        var rest: ArraySlice<UInt8>
        let fileOffset: Int
        let file: FilePath

        /// Takes a token, and the spaces before it, where it is there.
        mutating func take(_ token: String) -> Bool {
            skipSpace()
            guard rest.starts(with: token.utf8) else { return false }
            rest = rest.dropFirst(token.utf8.count)
            return true
        }

        mutating func expect(_ token: String) throws(CheckpointError) {
            if !take(token) { throw error("\(token) should stand here") }
        }

        mutating func quotedString() throws(CheckpointError) -> String {
            try expect("'")
            guard let end = rest.firstIndex(of: UInt8(ascii: "'")) else {
                throw error("the string does not end")
            }
            defer { rest = rest[(end + 1)...] }
            return String(decoding: rest[..<end], as: UTF8.self)
        }

        mutating func boolean() throws(CheckpointError) -> Bool {
            if take("True") { return true }
            try expect("False")
            return false
        }

        mutating func shape() throws(CheckpointError) -> Shape {
            try expect("(")
            var dimensions: [Int] = []
            while !take(")") {
                skipSpace()
                let digits = rest.prefix { (0x30...0x39).contains($0) }
                guard let dimension = Int(String(decoding: digits, as: UTF8.self)) else {
                    throw error("an extent should stand here")
                }
                rest = rest.dropFirst(digits.count)
                dimensions.append(dimension)
                if take(")") { break }
                try expect(",")
            }
            return Shape(dimensions)
        }

        var isAtEnd: Bool {
            mutating get {
                skipSpace()
                return rest.isEmpty
            }
        }

        private mutating func skipSpace() { rest = rest.drop { $0 == 0x20 || $0 == 0x0A } }

        func error(_ what: String) -> CheckpointError {
            CheckpointError(
                .malformed, file: file, byteOffset: fileOffset + rest.startIndex,
                "The .npy header cannot be read: \(what). Convert the model again.")
        }
    }
}
