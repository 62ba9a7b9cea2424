import SystemPackage

/// A JSON value that knows where it stands in its file and keeps the order of an object's members.
///
/// A general decoder keeps one of two equal keys without a word and tells no offsets; a checkpoint's header
/// needs the opposite. Numbers are 64-bit integers or refused: a header has no others.
struct JSONDocument {
    enum Value {
        case object([Member])
        case array([JSONDocument])
        case string(String)
        case integer(Int)
        case boolean(Bool)
        case null
    }

    struct Member {
        let key: String
        /// Where the key begins in the file.
        let byteOffset: Int
        let value: JSONDocument
    }

    let value: Value
    let byteOffset: Int

    /// Parses the whole of `bytes`, which begin at `fileOffset` in the file.
    init(_ bytes: [UInt8], fileOffset: Int, file: FilePath) throws(CheckpointError) {
        var parser = JSONParser(bytes: bytes, fileOffset: fileOffset, file: file)
        self = try parser.document()
    }

    fileprivate init(value: Value, byteOffset: Int) {
        self.value = value
        self.byteOffset = byteOffset
    }

    var members: [Member]? { if case .object(let members) = value { members } else { nil } }
    var elements: [JSONDocument]? { if case .array(let elements) = value { elements } else { nil } }
    var string: String? { if case .string(let string) = value { string } else { nil } }
    var integer: Int? { if case .integer(let integer) = value { integer } else { nil } }

    /// The value of an object's member.
    subscript(key: String) -> JSONDocument? { members?.first { $0.key == key }?.value }
}

private struct JSONParser {
    let bytes: [UInt8]
    let fileOffset: Int
    let file: FilePath
    var position = 0

    /// A header nests three deep; the limit keeps a hostile file from overflowing the stack.
    static let depthLimit = 16

    mutating func document() throws(CheckpointError) -> JSONDocument {
        let document = try value(depth: 0)
        skipSpace()
        if position < bytes.count { throw error("something follows the end of the JSON text") }
        return document
    }

    private mutating func value(depth: Int) throws(CheckpointError) -> JSONDocument {
        skipSpace()
        let offset = fileOffset + position
        let value: JSONDocument.Value
        switch peek {
        case UInt8(ascii: "{"):
            value = .object(try members(depth: depth + 1))
        case UInt8(ascii: "["):
            value = .array(try elements(depth: depth + 1))
        case UInt8(ascii: "\""):
            value = .string(try string())
        case let byte? where byte == UInt8(ascii: "-") || (0x30...0x39).contains(byte):
            value = .integer(try integer())
        default:
            if take("true") {
                value = .boolean(true)
            } else if take("false") {
                value = .boolean(false)
            } else if take("null") {
                value = .null
            } else {
                throw error("a JSON value should stand here")
            }
        }
        return JSONDocument(value: value, byteOffset: offset)
    }

    private mutating func members(depth: Int) throws(CheckpointError) -> [JSONDocument.Member] {
        try enter("{", depth: depth)
        var members: [JSONDocument.Member] = []
        var keys: Set<String> = []
        skipSpace()
        if take("}") { return members }
        while true {
            skipSpace()
            let start = position
            let key = try string()
            if !keys.insert(key).inserted {
                position = start
                throw error("the key \"\(key)\" stands twice in one object")
            }
            skipSpace()
            if !take(":") { throw error("a colon should stand here") }
            let value = try value(depth: depth)
            members.append(.init(key: key, byteOffset: fileOffset + start, value: value))
            skipSpace()
            if take("}") { return members }
            if !take(",") { throw error("a comma or the end of the object should stand here") }
        }
    }

    private mutating func elements(depth: Int) throws(CheckpointError) -> [JSONDocument] {
        try enter("[", depth: depth)
        var elements: [JSONDocument] = []
        skipSpace()
        if take("]") { return elements }
        while true {
            elements.append(try value(depth: depth))
            skipSpace()
            if take("]") { return elements }
            if !take(",") { throw error("a comma or the end of the array should stand here") }
        }
    }

    private mutating func enter(_ bracket: StaticString, depth: Int) throws(CheckpointError) {
        if depth > Self.depthLimit { throw error("the JSON text nests deeper than \(Self.depthLimit)") }
        _ = take(bracket)
    }

    private mutating func integer() throws(CheckpointError) -> Int {
        let start = position
        let isNumberPart = { (byte: UInt8) in
            (0x30...0x39).contains(byte) || "+-.eE".utf8.contains(byte)
        }
        while let byte = peek, isNumberPart(byte) { position += 1 }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        let digits = text.drop { $0 == "-" }
        guard let integer = Int(text), digits == "0" || digits.first != "0" else {
            position = start
            throw error("\(text) is no 64-bit integer")
        }
        return integer
    }

    private mutating func string() throws(CheckpointError) -> String {
        guard peek == UInt8(ascii: "\"") else { throw error("a string should stand here") }
        let start = position
        position += 1
        var text: [UInt8] = []
        while let byte = peek {
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    position = start
                    throw error("the string is no UTF-8 text")
                }
                return string
            case UInt8(ascii: "\\"):
                text.append(contentsOf: try escape())
            case ..<0x20:
                position -= 1
                throw error("a control character stands in a string")
            default:
                text.append(byte)
            }
        }
        position = start
        throw error("the string does not end")
    }

    /// What follows a backslash, as UTF-8.
    private mutating func escape() throws(CheckpointError) -> [UInt8] {
        let characters = Array("\"\\/bfnrt".utf8)
        let meanings = Array("\"\\/\u{8}\u{C}\n\r\t".utf8)
        if let byte = peek, let index = characters.firstIndex(of: byte) {
            position += 1
            return [meanings[index]]
        }
        guard take("u") else { throw error("this escape does not exist in JSON") }
        var scalar = try hexadecimal()
        if scalar >> 10 == 0xD800 >> 10, take("\\u") {
            let low = try hexadecimal()
            guard low >> 10 == 0xDC00 >> 10 else { throw error("half of a surrogate pair is missing") }
            scalar = 0x10000 + (scalar & 0x3FF) << 10 + low & 0x3FF
        }
        guard let unicode = Unicode.Scalar(scalar) else { throw error("half of a surrogate pair is missing") }
        return Array(String(Character(unicode)).utf8)
    }

    private mutating func hexadecimal() throws(CheckpointError) -> UInt32 {
        let digits = bytes[position...].prefix(4)
        guard digits.count == 4, digits.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }) else {
            throw error("four hexadecimal digits should follow \\u")
        }
        position += 4
        return UInt32(String(decoding: digits, as: UTF8.self), radix: 16)!
    }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private mutating func take(_ text: StaticString) -> Bool {
        let expected = UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
        guard bytes[position...].starts(with: expected) else { return false }
        position += expected.count
        return true
    }

    private func error(_ what: String) -> CheckpointError {
        CheckpointError(
            .malformed, file: file, byteOffset: fileOffset + position,
            "The JSON text cannot be read: \(what). Download the file again.")
    }
}
