import SystemPackage

/// The entries of a zip archive whose contents are stored as they are, as torch.save writes it.
///
/// Follows APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3 (zip64, which any archive over 4 GiB needs). The
/// central directory, each entry's local header and its data descriptor have to agree.
struct ZipDirectory {
    struct Entry {
        let name: String
        /// Where the contents lie in the file.
        let range: Range<Int>
    }

    let entries: [Entry]

    private static let localHeaderByteCount = 30
    private static let endRecordByteCount = 22
    private static let zip64LocatorByteCount = 20

    init(_ file: MappedFile) throws(CheckpointError) {
        let directory = try Self.locate(in: file)
        var reader = ByteReader(
            try file.bytes(directory.range), fileOffset: directory.range.lowerBound, file: file.path)
        var headers: [CentralHeader] = []
        var names: Set<String> = []
        for _ in 0..<directory.entryCount {
            let offset = reader.byteOffset
            let header = try CentralHeader(&reader)
            guard names.insert(header.name).inserted else {
                throw CheckpointError(
                    .malformed, file: file.path, byteOffset: offset,
                    "The zip archive holds \(header.name) twice.")
            }
            headers.append(header)
        }
        guard reader.remainingCount == 0 else {
            throw reader.error(
                .malformed,
                "The zip archive's directory should end after \(directory.entryCount) entries, and "
                    + "\(reader.remainingCount) bytes follow.")
        }
        headers.sort { $0.localOffset < $1.localOffset }
        var entries: [Entry] = []
        for (index, header) in headers.enumerated() {
            // The next entry's offset has not been looked at yet, and may lie outside the file.
            let next = index + 1 < headers.count ? headers[index + 1].localOffset : Int.max
            let limit = min(next, directory.range.lowerBound)
            entries.append(
                Entry(name: header.name, range: try header.contents(in: file, before: limit)))
        }
        self.entries = entries
    }

    /// Finds the central directory from the records at the end of the file.
    private static func locate(
        in file: MappedFile
    ) throws(CheckpointError) -> (range: Range<Int>, entryCount: Int) {
        func error(_ offset: Int, _ what: String) -> CheckpointError {
            CheckpointError(
                .malformed, file: file.path, byteOffset: offset,
                "\(what) The file may be damaged or cut short: download it again.")
        }
        // torch.save writes no archive comment, so the end record is the last thing in the file.
        let endOffset = file.byteCount - endRecordByteCount
        guard endOffset >= 0 else {
            throw error(0, "The file is too short for a zip archive.")
        }
        var end = ByteReader(
            try file.bytes(endOffset..<file.byteCount), fileOffset: endOffset, file: file.path)
        guard try end.integer(UInt32.self) == 0x0605_4B50 else {
            throw error(endOffset, "The zip archive has no end record here.")
        }
        let disks = try (end.integer(UInt16.self), end.integer(UInt16.self))
        let entryCounts = try (end.count(UInt16.self), end.count(UInt16.self))
        let byteCount = try end.count(UInt32.self)
        let offset = try end.count(UInt32.self)
        guard disks == (0, 0), entryCounts.0 == entryCounts.1, try end.integer(UInt16.self) == 0 else {
            throw error(endOffset, "The zip archive's end record tells of several disks or of a comment.")
        }

        var directory = (offset: offset, byteCount: byteCount, entryCount: entryCounts.0)
        var directoryEnd = endOffset
        if let zip64 = try zip64EndRecord(in: file, endOffset: endOffset) {
            // Each field of the old record either holds the same number or is full.
            guard directory.offset == zip64.offset || directory.offset == 0xFFFF_FFFF,
                directory.byteCount == zip64.byteCount || directory.byteCount == 0xFFFF_FFFF,
                directory.entryCount == zip64.entryCount || directory.entryCount == 0xFFFF
            else {
                throw error(endOffset, "The zip archive's two end records disagree.")
            }
            directory = (zip64.offset, zip64.byteCount, zip64.entryCount)
            directoryEnd = zip64.recordOffset
        }
        let (sum, overflow) = directory.offset.addingReportingOverflow(directory.byteCount)
        guard !overflow, sum == directoryEnd else {
            throw error(
                endOffset,
                "The zip archive's directory of \(directory.byteCount) bytes at byte \(directory.offset) "
                    + "does not end where its end record begins, at byte \(directoryEnd).")
        }
        return (directory.offset..<sum, directory.entryCount)
    }

    private static func zip64EndRecord(
        in file: MappedFile, endOffset: Int
    ) throws(CheckpointError) -> (recordOffset: Int, offset: Int, byteCount: Int, entryCount: Int)? {
        let locatorOffset = endOffset - zip64LocatorByteCount
        guard locatorOffset >= 0 else { return nil }
        var locator = ByteReader(
            try file.bytes(locatorOffset..<endOffset), fileOffset: locatorOffset, file: file.path)
        guard try locator.integer(UInt32.self) == 0x0706_4B50 else { return nil }
        try locator.skip(4)
        let recordOffset = try locator.count(UInt64.self)
        let recordByteCount = 56
        guard recordOffset == locatorOffset - recordByteCount else {
            throw CheckpointError(
                .malformed, file: file.path, byteOffset: locatorOffset,
                "The zip64 end record should stand just before its locator, and is said to be at byte "
                    + "\(recordOffset). The file may be damaged: download it again.")
        }
        var record = ByteReader(
            try file.bytes(recordOffset..<locatorOffset), fileOffset: recordOffset, file: file.path)
        guard try record.integer(UInt32.self) == 0x0606_4B50,
            try record.integer(UInt64.self) == UInt64(recordByteCount - 12)
        else {
            throw CheckpointError(
                .malformed, file: file.path, byteOffset: recordOffset,
                "The zip archive has no sound zip64 end record here. Download the file again.")
        }
        try record.skip(4)
        let disks = try (record.integer(UInt32.self), record.integer(UInt32.self))
        let entryCounts = try (record.count(UInt64.self), record.count(UInt64.self))
        let byteCount = try record.count(UInt64.self)
        let offset = try record.count(UInt64.self)
        guard disks == (0, 0), entryCounts.0 == entryCounts.1 else {
            throw CheckpointError(
                .unsupported, file: file.path, byteOffset: recordOffset,
                "The zip archive spans several disks.")
        }
        return (recordOffset, offset, byteCount, entryCounts.0)
    }
}

/// An entry's header in the central directory.
private struct CentralHeader {
    let name: String
    let flags: UInt16
    let checksum: UInt32
    let byteCount: Int
    let localOffset: Int
    let headerOffset: Int

    init(_ reader: inout ByteReader) throws(CheckpointError) {
        headerOffset = reader.byteOffset
        guard try reader.integer(UInt32.self) == 0x0201_4B50 else {
            throw reader.error(.malformed, "The zip archive's directory lacks an entry here.")
        }
        try reader.skip(4)
        flags = try reader.integer(UInt16.self)
        let method = try reader.integer(UInt16.self)
        try reader.skip(4)
        checksum = try reader.integer(UInt32.self)
        var storedByteCount = try reader.count(UInt32.self)
        var byteCount = try reader.count(UInt32.self)
        let nameByteCount = try reader.count(UInt16.self)
        let extraByteCount = try reader.count(UInt16.self)
        let commentByteCount = try reader.count(UInt16.self)
        try reader.skip(8)
        var localOffset = try reader.count(UInt32.self)
        name = try reader.string(byteCount: nameByteCount)
        try readZip64Extra(
            &reader, byteCount: extraByteCount, fields: &byteCount, &storedByteCount, &localOffset)
        try reader.skip(commentByteCount)
        self.byteCount = byteCount
        self.localOffset = localOffset

        func error(_ code: CheckpointError.Code, _ sentence: String) -> CheckpointError {
            CheckpointError(code, file: reader.file, byteOffset: headerOffset, sentence)
        }
        guard flags & 1 == 0 else {
            throw error(.unsupported, "The zip entry \(name) is encrypted. Save the model with torch.save.")
        }
        guard method == 0 else {
            throw error(
                .unsupported,
                "The zip entry \(name) is compressed (method \(method)), and torch.save stores its entries "
                    + "as they are. Load the file with torch and save it again.")
        }
        guard storedByteCount == byteCount else {
            throw error(
                .malformed,
                "The zip entry \(name) is stored as it is, and yet \(storedByteCount) bytes stand for "
                    + "\(byteCount).")
        }
    }

    /// Where the contents lie, after the local header was held against this one.
    func contents(in file: MappedFile, before limit: Int) throws(CheckpointError) -> Range<Int> {
        func error(_ what: String) -> CheckpointError {
            CheckpointError(
                .malformed, file: file.path, byteOffset: localOffset,
                "The zip entry \(name) \(what). Download the file again.")
        }
        let fixedEnd = localOffset.addingReportingOverflow(30)
        guard !fixedEnd.overflow, fixedEnd.partialValue <= limit else {
            throw error("should begin here, where something else stands")
        }
        var reader = ByteReader(
            try file.bytes(localOffset..<fixedEnd.partialValue), fileOffset: localOffset, file: file.path)
        guard try reader.integer(UInt32.self) == 0x0403_4B50 else { throw error("has no local header here") }
        try reader.skip(2)
        let localFlags = try reader.integer(UInt16.self)
        let localMethod = try reader.integer(UInt16.self)
        try reader.skip(4)
        let localChecksum = try reader.integer(UInt32.self)
        var storedByteCount = try reader.count(UInt32.self)
        var localByteCount = try reader.count(UInt32.self)
        let nameByteCount = try reader.count(UInt16.self)
        let extraByteCount = try reader.count(UInt16.self)
        let start = fixedEnd.partialValue + nameByteCount + extraByteCount
        let (end, overflow) = start.addingReportingOverflow(byteCount)
        guard !overflow, end <= limit else {
            throw error("should have \(byteCount) bytes, and \(limit - start) are there")
        }
        var rest = ByteReader(
            try file.bytes(fixedEnd.partialValue..<start), fileOffset: fixedEnd.partialValue, file: file.path)
        guard localFlags == flags, localMethod == 0, try rest.string(byteCount: nameByteCount) == name else {
            throw error("has a local header that differs from the directory's")
        }
        // Written in one go, an entry's checksum and sizes follow it; the local header then holds zeros.
        if flags & 8 != 0, localChecksum == 0, storedByteCount == 0, localByteCount == 0 {
            try checkDescriptor(in: file, at: end, before: limit)
            return start..<end
        }
        var noOffset = 0
        try readZip64Extra(
            &rest, byteCount: extraByteCount, fields: &localByteCount, &storedByteCount, &noOffset)
        guard localChecksum == checksum, localByteCount == byteCount, storedByteCount == byteCount else {
            throw error(
                "has \(localByteCount) bytes according to its local header and \(byteCount) according to the "
                    + "directory")
        }
        return start..<end
    }

    /// The data descriptor behind the contents: "PK\7\8" (not always there), checksum, sizes of 4 or 8 bytes.
    private func checkDescriptor(
        in file: MappedFile, at offset: Int, before limit: Int
    ) throws(CheckpointError) {
        let found = try file.bytes(offset..<min(offset + 24, limit))
        func littleEndian(_ value: Int, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
        }
        let signature: [UInt8] = [0x50, 0x4B, 7, 8]
        for width in [4, 8] where width == 8 || byteCount <= 0xFFFF_FFFF {
            let size = littleEndian(byteCount, width)
            let expected = littleEndian(Int(checksum), 4) + size + size
            if found.starts(with: signature + expected) || found.starts(with: expected) { return }
        }
        throw CheckpointError(
            .malformed, file: file.path, byteOffset: offset,
            "The zip entry \(name) should have \(byteCount) bytes, and the descriptor behind them says "
                + "otherwise. Download the file again.")
    }
}

/// Reads an entry's extra fields; the zip64 one replaces, in this order, those numbers that are full.
private func readZip64Extra(
    _ reader: inout ByteReader, byteCount: Int, fields size: inout Int, _ storedSize: inout Int,
    _ offset: inout Int
) throws(CheckpointError) {
    let full = 0xFFFF_FFFF
    var remaining = byteCount
    while remaining >= 4 {
        let identifier = try reader.integer(UInt16.self)
        let fieldByteCount = try reader.count(UInt16.self)
        remaining -= 4 + fieldByteCount
        guard remaining >= 0 else {
            throw reader.error(.malformed, "An extra field of a zip entry reaches past its end.")
        }
        guard identifier == 1 else {
            try reader.skip(fieldByteCount)
            continue
        }
        let end = reader.position + fieldByteCount
        if size == full, end - reader.position >= 8 { size = try reader.count(UInt64.self) }
        if storedSize == full, end - reader.position >= 8 { storedSize = try reader.count(UInt64.self) }
        if offset == full, end - reader.position >= 8 { offset = try reader.count(UInt64.self) }
        try reader.skip(end - reader.position)
    }
    try reader.skip(remaining)
}
