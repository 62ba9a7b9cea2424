import Glibc

/// What goes over a control link: a header of two words of 32 bits, kind and byte count, then the bytes.
enum Frame {
    enum Kind: UInt32 {
        case greeting = 1
        /// The bytes are the `Roster`.
        case welcome = 2
        /// The bytes are why; empty for a rank that need not say it.
        case refusal = 3
        /// The rank has loaded its part and waits for commands.
        case ready = 4
        case command = 5
        /// What the rank gives to a gathering, or answers to a question.
        case reply = 6
        case beat = 7
        /// The sender has failed, and says why itself.
        case failure = 8
        /// The receiver holds everybody up; the bytes are what it is to say.
        case stall = 9
        case end = 10
        /// Asks the rank for what it has to say of itself.
        case question = 11
        /// What all ranks gave to a gathering.
        case gathered = 12
    }

    static let headerByteCount = 8
    /// What neither another program nor a sentence of ours reaches; a larger count is no frame.
    static let mostByteCount: UInt32 = 1 << 30
}

extension Socket {
    func write(_ kind: Frame.Kind, _ bytes: UnsafeRawBufferPointer) throws(Failure) {
        // Beats, commands and the end come from different threads.
        let result = frames.withLock { _ in
            Result { () throws(Failure) in try writeFrame(kind, bytes) }
        }
        try result.get()
    }

    /// The same where no other frame is under way; nothing is written where one is.
    func writeIfIdle(_ kind: Frame.Kind) {
        _ = frames.withLockIfAvailable { _ in
            try? writeFrame(kind, UnsafeRawBufferPointer(start: nil, count: 0))
        }
    }

    private func writeFrame(_ kind: Frame.Kind, _ bytes: UnsafeRawBufferPointer) throws(Failure) {
        var header = (kind.rawValue.littleEndian, UInt32(bytes.count).littleEndian)
        let result = withUnsafeBytes(of: &header) { header in
            Result { () throws(Failure) in try write(header, hasMore: !bytes.isEmpty) }
        }
        try result.get()
        if !bytes.isEmpty { try write(bytes) }
    }

    func write(_ kind: Frame.Kind, _ bytes: [UInt8] = []) throws(Failure) {
        let result = bytes.withUnsafeBytes { bytes in Result { () throws(Failure) in try write(kind, bytes) }
        }
        try result.get()
    }

    func write(_ kind: Frame.Kind, _ text: String) throws(Failure) { try write(kind, Array(text.utf8)) }

    /// Reads a frame's kind and how many bytes follow.
    func readHeader(polls: Int = 0, seconds: Double? = nil) throws(Failure) -> (kind: Frame.Kind, count: Int)
    {
        var header = (UInt32(0), UInt32(0))
        let result = withUnsafeMutableBytes(of: &header) { header in
            Result { () throws(Failure) in try read(into: header, polls: polls, seconds: seconds) }
        }
        try result.get()
        let count = UInt32(littleEndian: header.1)
        guard let kind = Frame.Kind(rawValue: UInt32(littleEndian: header.0)), count <= Frame.mostByteCount
        else {
            throw .system(EPROTO)
        }
        return (kind, Int(count))
    }

    /// Reads the bytes of a frame.
    func read(_ count: Int, into buffer: inout [UInt8], seconds: Double? = nil) throws(Failure) {
        if buffer.count != count { buffer = Array(repeating: 0, count: count) }
        if count == 0 { return }
        let result = buffer.withUnsafeMutableBytes { bytes in
            Result { () throws(Failure) in try read(into: bytes, seconds: seconds) }
        }
        try result.get()
    }

    func readFrame(seconds: Double? = nil) throws(Failure) -> (kind: Frame.Kind, bytes: [UInt8]) {
        let (kind, count) = try readHeader(seconds: seconds)
        var bytes: [UInt8] = []
        try read(count, into: &bytes, seconds: seconds)
        return (kind, bytes)
    }
}
