import SystemPackage

/// Writes a zip archive as torch.save does, or with one of the lies that a damaged or hostile file may tell.
struct ZipWriter {
    struct Lies {
        var method: UInt16 = 0
        var flags: UInt16 = 8
        /// Added to the sizes in the local header, the descriptor behind the contents, the central directory.
        var localByteCount = 0
        var descriptorByteCount = 0
        var centralByteCount = 0
        var centralStoredByteCount = 0
        var localName: String?
        var localOffset = 0
    }

    private(set) var pieces: [(offset: Int, bytes: [UInt8])] = []
    private(set) var end = 0
    private var directory: [UInt8] = []
    private var entryCount = 0

    var bytes: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: end)
        for piece in pieces {
            bytes.replaceSubrange(piece.offset..<piece.offset + piece.bytes.count, with: piece.bytes)
        }
        return bytes
    }

    private mutating func append(_ bytes: [UInt8]) {
        pieces.append((end, bytes))
        end += bytes.count
    }

    /// Adds an entry of `holeByteCount` zeros, which take no room on the disk, and `contents`; returns the
    /// offset of the contents.
    @discardableResult
    mutating func add(
        _ name: String, _ contents: [UInt8], holeByteCount: Int = 0, lies: Lies = Lies(),
        streamed: Bool = true
    ) -> Int {
        let byteCount = holeByteCount + contents.count
        let localOffset = end
        let isLarge = byteCount > 0xFFFF_FFFF || localOffset > 0xFFFF_FFFF
        let full = UInt32.max
        let size32 = { (size: Int) in UInt32(exactly: size) ?? full }
        let flags = streamed ? lies.flags : lies.flags & ~8
        let checksum: UInt32 = 0xC0FF_EE00
        let extra = isLarge ? Self.zip64Extra([byteCount, byteCount]) : []
        let localName = Array((lies.localName ?? name).utf8)

        append(littleEndian(UInt32(0x0403_4B50)) + littleEndian(UInt16(0)) + littleEndian(flags))
        append(littleEndian(lies.method) + littleEndian(UInt32(0)))
        if streamed {
            append([UInt8](repeating: 0, count: 12))
        } else {
            let size = littleEndian(isLarge ? full : size32(byteCount + lies.localByteCount))
            append(littleEndian(checksum) + size + size)
        }
        append(littleEndian(UInt16(localName.count)) + littleEndian(UInt16(extra.count)) + localName + extra)
        end += holeByteCount
        let contentsOffset = end
        append(contents)
        if streamed {
            let size = byteCount + lies.descriptorByteCount
            let sizes = isLarge ? littleEndian(UInt64(size)) : littleEndian(UInt32(size))
            append([0x50, 0x4B, 7, 8] + littleEndian(checksum) + sizes + sizes)
        }

        let central = byteCount + lies.centralByteCount
        let stored = central + lies.centralStoredByteCount
        let offset = localOffset + lies.localOffset
        var fullFields: [Int] = []
        for number in [central, stored, offset] where number > 0xFFFF_FFFE { fullFields.append(number) }
        let centralExtra = fullFields.isEmpty ? [] : Self.zip64Extra(fullFields)
        directory += littleEndian(UInt32(0x0201_4B50)) + littleEndian(UInt32(0)) + littleEndian(flags)
        directory += littleEndian(lies.method) + littleEndian(UInt32(0)) + littleEndian(checksum)
        directory += littleEndian(size32(stored)) + littleEndian(size32(central))
        directory += littleEndian(UInt16(name.utf8.count)) + littleEndian(UInt16(centralExtra.count))
        directory += [UInt8](repeating: 0, count: 10) + littleEndian(size32(offset))
        directory += Array(name.utf8) + centralExtra
        entryCount += 1
        return contentsOffset
    }

    private static func zip64Extra(_ numbers: [Int]) -> [UInt8] {
        littleEndian(UInt16(1)) + littleEndian(UInt16(numbers.count * 8))
            + numbers.flatMap { littleEndian(UInt64($0)) }
    }

    /// Ends the archive; the lies are added to what the end records say.
    mutating func finish(zip64: Bool, entryCountLie: Int = 0, directoryByteCountLie: Int = 0) {
        let offset = end
        append(directory)
        let count = entryCount + entryCountLie
        let byteCount = directory.count + directoryByteCountLie
        if zip64 {
            let recordOffset = end
            append(littleEndian(UInt32(0x0606_4B50)) + littleEndian(UInt64(44)) + littleEndian(UInt32(0)))
            append([UInt8](repeating: 0, count: 8))
            append(littleEndian(UInt64(count)) + littleEndian(UInt64(count)))
            append(littleEndian(UInt64(byteCount)) + littleEndian(UInt64(offset)))
            append(littleEndian(UInt32(0x0706_4B50)) + littleEndian(UInt32(0)))
            append(littleEndian(UInt64(recordOffset)) + littleEndian(UInt32(1)))
        }
        append(littleEndian(UInt32(0x0605_4B50)) + littleEndian(UInt32(0)))
        append(littleEndian(UInt16(count)) + littleEndian(UInt16(count)))
        append(littleEndian(UInt32(byteCount)) + littleEndian(UInt32(exactly: offset) ?? .max))
        append(littleEndian(UInt16(0)))
    }
}

/// A tensor as a pickle describes it.
struct PickledTensor {
    var name = "decoder.a"
    var type = "HalfStorage"
    var key = "0"
    var elementCount = 6
    var offset = 0
    var shape = [2, 3]
    var strides = [3, 1]

    /// The opcodes that push it.
    var opcodes: [UInt8] {
        var code = Pickle.global("torch._utils", "_rebuild_tensor_v2") + Pickle.mark
        code += Pickle.mark + Pickle.string("storage") + Pickle.global("torch", type)
        code += Pickle.string(key) + Pickle.string("cpu") + Pickle.integer(elementCount) + Pickle.tuple
        code += Array("Q".utf8) + Pickle.integer(offset)
        code += Pickle.mark + shape.flatMap(Pickle.integer) + Pickle.tuple
        code += Pickle.mark + strides.flatMap(Pickle.integer) + Pickle.tuple
        code += [0x89] + Pickle.global("collections", "OrderedDict") + Array(")R".utf8)
        return code + Pickle.tuple + Pickle.reduce
    }
}

enum Pickle {
    static let mark = Array("(".utf8)
    static let tuple = Array("t".utf8)
    static let reduce = Array("R".utf8)
    static let start: [UInt8] = [0x80, 2]

    static func global(_ module: String, _ name: String) -> [UInt8] { Array("c\(module)\n\(name)\n".utf8) }

    static func string(_ text: String) -> [UInt8] {
        Array("X".utf8) + littleEndian(UInt32(text.utf8.count)) + Array(text.utf8)
    }

    /// LONG1 for what BININT cannot hold, as Python writes it.
    static func integer(_ value: Int) -> [UInt8] {
        if let small = Int32(exactly: value) { return Array("J".utf8) + littleEndian(small) }
        return [0x8A, 8] + littleEndian(Int64(value))
    }

    static func dictionary(_ tensors: [PickledTensor]) -> [UInt8] {
        var code = start + Array("}(".utf8)
        for tensor in tensors { code += string(tensor.name) + tensor.opcodes }
        return code + Array("u.".utf8)
    }
}
