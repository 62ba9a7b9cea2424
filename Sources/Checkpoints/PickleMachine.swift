import SystemPackage

/// Interprets the pickle inside a torch.save archive, as far as it builds tensors in dictionaries.
///
/// A pickle is a program and may call any function of Python. This machine knows the opcodes that torch.save
/// writes (protocol 2) and the few names of `PickleGlobal`; everything else is refused by name and byte
/// offset. Values that hold others live in arenas and are referred to by index, so that a hostile file can
/// build neither a cycle nor a chain that overflows the stack.
struct PickleMachine {
    enum Value {
        case none
        case boolean(Bool)
        case integer(Int)
        case string(String)
        case tuple(Int)
        case dictionary(Int)
        case global(PickleGlobal)
        case storage(PickleStorage)
        case tensor(PickleTensor)
    }

    private var tuples: [[Value]] = []
    private var dictionaries: [[String: Value]] = []
    /// The keys of each dictionary in the order of the file.
    private var keys: [[String]] = []
    private var stack: [Value] = []
    private var marks: [Int] = []
    private var memo: [Int: Value] = [:]
    private var reader: ByteReader
    /// Where the opcode that is being interpreted stands.
    private var opcodeOffset: Int

    /// The state dictionary of a pickle: names and tensors.
    static func stateDictionary(
        _ bytes: [UInt8], fileOffset: Int, file: FilePath
    ) throws(CheckpointError) -> [(name: String, tensor: PickleTensor)] {
        var machine = PickleMachine(reader: ByteReader(bytes, fileOffset: fileOffset, file: file))
        guard case .dictionary(let index) = try machine.run() else {
            throw machine.error(.unsupported, "The pickle does not hold a dictionary of tensors.")
        }
        var tensors: [(name: String, tensor: PickleTensor)] = []
        for key in machine.keys[index] {
            guard case .tensor(let tensor)? = machine.dictionaries[index][key] else {
                throw machine.error(
                    .unsupported,
                    "The pickle's entry \"\(key)\" is no tensor, so this is not a model's state dictionary. "
                        + "Save model.state_dict() alone.")
            }
            tensors.append((key, tensor))
        }
        return tensors
    }

    private init(reader: ByteReader) {
        self.reader = reader
        opcodeOffset = reader.byteOffset
    }

    private mutating func run() throws(CheckpointError) -> Value {
        guard try reader.byte() == 0x80, try reader.byte() == 2 else {
            throw error(.unsupported, "The pickle is not of protocol 2, which torch.save writes.")
        }
        while true {
            opcodeOffset = reader.byteOffset
            let opcode = try reader.byte()
            switch Character(Unicode.Scalar(opcode)) {
            case ".":
                let result = try pop()
                guard stack.isEmpty, marks.isEmpty, reader.remainingCount == 0 else {
                    throw error(.malformed, "The pickle stops with something left over.")
                }
                return result
            case "N": stack.append(.none)
            case "\u{88}": stack.append(.boolean(true))
            case "\u{89}": stack.append(.boolean(false))
            case "J": stack.append(.integer(Int(Int32(bitPattern: try reader.integer(UInt32.self)))))
            case "K": stack.append(.integer(Int(try reader.byte())))
            case "M": stack.append(.integer(try reader.count(UInt16.self)))
            case "\u{8A}": stack.append(.integer(try longInteger()))
            case "X": stack.append(.string(try reader.string(byteCount: try reader.count(UInt32.self))))
            case "q": try memorize(Int(try reader.byte()))
            case "r": try memorize(try reader.count(UInt32.self))
            case "h": try recall(Int(try reader.byte()))
            case "j": try recall(try reader.count(UInt32.self))
            case "(": marks.append(stack.count)
            case ")": pushTuple([])
            case "\u{85}": pushTuple(try pop(1))
            case "\u{86}": pushTuple(try pop(2))
            case "\u{87}": pushTuple(try pop(3))
            case "t": pushTuple(try popToMark())
            case "}": pushDictionary()
            case "s": try setItems(try pop(2))
            case "u": try setItems(try popToMark())
            case "c": stack.append(.global(try global()))
            case "Q": stack.append(.storage(try storage(try pop())))
            case "R": try reduce()
            case "b": try build()
            default:
                throw error(
                    .unsupported,
                    "The pickle's opcode 0x\(String(opcode, radix: 16, uppercase: true)) is not one that "
                        + "builds tensors, so it is refused. Save model.state_dict() with torch.save.")
            }
        }
    }

    private mutating func pop() throws(CheckpointError) -> Value {
        guard stack.count > marks.last ?? 0 else {
            throw error(.malformed, "The pickle takes a value that it has not made.")
        }
        return stack.removeLast()
    }

    private mutating func pop(_ count: Int) throws(CheckpointError) -> [Value] {
        guard stack.count - (marks.last ?? 0) >= count else {
            throw error(.malformed, "The pickle takes \(count) values, and has fewer.")
        }
        defer { stack.removeLast(count) }
        return Array(stack.suffix(count))
    }

    private mutating func popToMark() throws(CheckpointError) -> [Value] {
        guard let mark = marks.last else { throw error(.malformed, "The pickle lacks a mark.") }
        defer {
            marks.removeLast()
            stack.removeLast(stack.count - mark)
        }
        return Array(stack[mark...])
    }

    private mutating func pushTuple(_ values: [Value]) {
        tuples.append(values)
        stack.append(.tuple(tuples.count - 1))
    }

    private mutating func pushDictionary() {
        dictionaries.append([:])
        keys.append([])
        stack.append(.dictionary(dictionaries.count - 1))
    }

    private mutating func memorize(_ key: Int) throws(CheckpointError) {
        guard let value = stack.last, stack.count > marks.last ?? 0 else {
            throw error(.malformed, "The pickle takes a value that it has not made.")
        }
        memo[key] = value
    }

    private mutating func recall(_ key: Int) throws(CheckpointError) {
        guard let value = memo[key] else {
            throw error(.malformed, "The pickle recalls value \(key), which it has not kept.")
        }
        stack.append(value)
    }

    /// LONG1: a two's-complement number of up to 8 bytes, as sizes from 2^31 on are written.
    private mutating func longInteger() throws(CheckpointError) -> Int {
        let byteCount = Int(try reader.byte())
        guard byteCount <= 8 else {
            throw error(.unsupported, "The pickle holds a number of \(byteCount) bytes.")
        }
        var bits: UInt64 = 0
        var last: UInt8 = 0
        for index in 0..<byteCount {
            last = try reader.byte()
            bits |= UInt64(last) << (8 * index)
        }
        if last & 0x80 != 0, byteCount < 8 { bits |= ~0 << (8 * byteCount) }
        return Int(Int64(bitPattern: bits))
    }

    private mutating func setItems(_ items: [Value]) throws(CheckpointError) {
        guard case .dictionary(let index) = try pop() else {
            throw error(.malformed, "The pickle sets an item of something that is no dictionary.")
        }
        stack.append(.dictionary(index))
        guard items.count.isMultiple(of: 2) else {
            throw error(.malformed, "The pickle sets a key without a value.")
        }
        for pair in stride(from: 0, to: items.count, by: 2) {
            guard case .string(let key) = items[pair] else {
                throw error(.unsupported, "A key of the pickle's dictionary is no text.")
            }
            guard dictionaries[index].updateValue(items[pair + 1], forKey: key) == nil else {
                throw error(.malformed, "The pickle sets the key \"\(key)\" twice.")
            }
            keys[index].append(key)
        }
    }

    private mutating func global() throws(CheckpointError) -> PickleGlobal {
        let module = try reader.line()
        let name = try reader.line()
        guard let global = PickleGlobal(rawValue: module + "." + name) else {
            throw error(
                .unsupported,
                "The pickle refers to \(module).\(name), which is not needed to build the fp16, bf16 and "
                    + "fp32 tensors of a model and may run code, so it is refused.")
        }
        return global
    }

    private func storage(_ identifier: Value) throws(CheckpointError) -> PickleStorage {
        guard case .tuple(let index) = identifier, tuples[index].count == 5,
            case .string("storage") = tuples[index][0], case .global(let type) = tuples[index][1],
            let scalarType = type.storageType, case .string(let key) = tuples[index][2],
            case .string = tuples[index][3], case .integer(let elementCount) = tuples[index][4],
            elementCount >= 0
        else {
            throw error(
                .unsupported,
                "The pickle names a persistent object that is no storage (type, key, device, element count).")
        }
        return PickleStorage(scalarType: scalarType, key: key, elementCount: elementCount)
    }

    private mutating func reduce() throws(CheckpointError) {
        guard case .tuple(let index) = try pop(), case .global(let function) = try pop() else {
            throw error(.malformed, "The pickle calls something that is no function.")
        }
        let arguments = tuples[index]
        switch function {
        case .orderedDictionary where arguments.isEmpty:
            pushDictionary()
        case .rebuildTensor:
            stack.append(.tensor(try tensor(arguments)))
        case .rebuildParameter:
            guard arguments.count == 3, case .tensor(let tensor) = arguments[0] else { fallthrough }
            stack.append(.tensor(tensor))
        default:
            throw error(
                .unsupported, "The pickle calls \(function.rawValue) with arguments that are not understood.")
        }
    }

    /// torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks)
    private func tensor(_ arguments: [Value]) throws(CheckpointError) -> PickleTensor {
        guard arguments.count == 6, case .storage(let storage) = arguments[0],
            case .integer(let offset) = arguments[1], let shape = integers(arguments[2]),
            let strides = integers(arguments[3]), strides.count == shape.count, offset >= 0,
            shape.allSatisfy({ $0 >= 0 }), case .boolean = arguments[4], case .dictionary = arguments[5]
        else {
            throw error(
                .unsupported,
                "The pickle calls torch._utils._rebuild_tensor_v2 with arguments that are not understood.")
        }
        return PickleTensor(
            storage: storage, elementOffset: offset, dimensions: shape, strides: strides,
            byteOffset: opcodeOffset)
    }

    private func integers(_ value: Value) -> [Int]? {
        guard case .tuple(let index) = value else { return nil }
        var integers: [Int] = []
        for case .integer(let integer) in tuples[index] { integers.append(integer) }
        return integers.count == tuples[index].count ? integers : nil
    }

    /// A state dictionary carries `_metadata`, versions of modules, as its state. It says nothing about
    /// tensors.
    private mutating func build() throws(CheckpointError) {
        guard case .dictionary = try pop(), case .dictionary = stack.last, stack.count > marks.last ?? 0
        else {
            throw error(.unsupported, "The pickle sets the state of something that is no dictionary.")
        }
    }

    private func error(_ code: CheckpointError.Code, _ sentence: String) -> CheckpointError {
        CheckpointError(code, file: reader.file, byteOffset: opcodeOffset, sentence)
    }
}
