import TensorCore

/// Tensors of a converted folder.
extension StoredTensor {
    static let advice = "Convert the model again, with tandem convert."

    /// The digests that a tensor's companion holds.
    func readDigests() throws(CheckpointError) -> [UInt32] {
        let byteCount = specification.byteCount
        guard specification.scalarType == .uint8, byteCount % 4 == 0 else {
            throw error(.malformed, "The tensor should hold digests of 4 bytes each. \(Self.advice)")
        }
        var reader = ByteReader(
            try file.bytes(byteOffset..<byteOffset + byteCount), fileOffset: byteOffset, file: file.path)
        var digests: [UInt32] = []
        for _ in 0..<byteCount / 4 { digests.append(try reader.integer(UInt32.self)) }
        return digests
    }

    /// Throws where there are not as many bytes and digests as the units ask for.
    func check(_ units: DigestUnits) throws(CheckpointError) {
        guard specification.byteCount == units.byteCount else {
            throw error(
                .wrongShape,
                "The tiles have \(specification.byteCount) bytes, and by the model's configuration they "
                    + "have \(units.byteCount). Take config.json and the weights from the same folder, or "
                    + "convert the model again, with tandem convert.")
        }
        guard digests?.count == units.count else {
            throw error(
                .malformed,
                "\(digests?.count ?? 0) digests are stored beside the tensor, and it has \(units.count) "
                    + "parts. \(Self.advice)")
        }
    }

    /// Copies units of a quantized matrix, and checks what arrived.
    func readTiles(
        _ block: TileBlock, into destination: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        if block.units.isEmpty { return }
        let units = DigestUnits.tiles(block.layout)
        try check(units)
        let bytes = block.bytes
        let (first, count) = (byteOffset + bytes.lowerBound, bytes.count)
        try file.withBytes(first..<first + count, isDense: true, tensor: specification.name) {
            destination.copyMemory(from: $0, byteCount: count)
        }
        try compare(block.units, of: units, at: destination)
    }

    /// Checks the units that hold these rows of a tensor that is not quantized; nothing where it has no digests.
    func checkDigests(ofRows rows: Range<Int>) throws(CheckpointError) {
        guard digests != nil else { return }
        let units = DigestUnits(specification)
        for unit in units.units(ofRows: rows) {
            let bytes = units.bytes(of: unit..<unit + 1)
            let (first, count) = (byteOffset + bytes.lowerBound, bytes.count)
            var isSound = false
            try file.withBytes(first..<first + count, isDense: true, tensor: specification.name) {
                isSound = DigestUnits.digest($0, byteCount: count) == digests![unit]
            }
            if !isSound { throw damage(bytes) }
        }
    }

    private func compare(
        _ run: Range<Int>, of units: DigestUnits, at copy: UnsafeRawPointer
    ) throws(CheckpointError) {
        let start = units.bytes(of: run).lowerBound
        for unit in run {
            let bytes = units.bytes(of: unit..<unit + 1)
            let digest = DigestUnits.digest(copy + bytes.lowerBound - start, byteCount: bytes.count)
            if digest != digests![unit] { throw damage(bytes) }
        }
    }

    private func damage(_ bytes: Range<Int>) -> CheckpointError {
        CheckpointError(
            .damaged, file: file.path, tensor: specification.name, byteOffset: byteOffset + bytes.lowerBound,
            "These \(bytes.count) bytes are not those that were written: they have another digest. Copy the "
                + "file again, or convert the model again, with tandem convert.")
    }

    private func error(_ code: CheckpointError.Code, _ sentence: String) -> CheckpointError {
        CheckpointError(
            code, file: file.path, tensor: specification.name, byteOffset: byteOffset, sentence)
    }
}
