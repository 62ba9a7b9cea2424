import Glibc
import HostRuntime
import Synchronization
import SystemPackage

extension OffloadFile {
    /// Bytes a second of direct reads of a file of so many bytes, which is made in a folder for it and is gone after.
    public static func measureReadRate(in folder: FilePath, byteCount: Int) throws(ModelError) -> Double? {
        let file = try OffloadFile(in: folder)
        let pieceByteCount = 16 << 20
        let piece: HostBuffer
        do {
            piece = try HostBuffer(byteCount: pieceByteCount)
        } catch {
            throw ModelError(loading: error)
        }
        // Bytes that no disk can make fewer: noise, and no two pieces alike.
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        let words: UnsafeMutablePointer<UInt64> = piece.pointer()
        for index in 0..<pieceByteCount / 8 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            words[index] = state
        }
        for offset in stride(from: 0, to: byteCount / pieceByteCount * pieceByteCount, by: pieceByteCount) {
            for block in stride(from: 0, to: pieceByteCount / 8, by: 512) {
                words[block] = UInt64(offset + block) ^ state
            }
            try file.write(
                UnsafeRawBufferPointer(start: piece.baseAddress, count: pieceByteCount), at: offset)
        }
        file.settle()
        return try file.measureReadRate()
    }

    /// Bytes a second of direct reads by as many threads as stream, of at most 8 GiB spread over the whole file: what
    /// lies below the disk may keep a part of it that is read again and again.
    func measureReadRate() throws(ModelError) -> Double? {
        let pieceByteCount = 16 << 20
        let pieceCount = min(512, byteCount.load(ordering: .relaxed) / pieceByteCount)
        if pieceCount == 0 { return nil }
        let start = ContinuousClock.now
        let reading = Reading(file: self, pieceByteCount: pieceByteCount, pieceCount: pieceCount)
        let threads = (0..<DiskReader.threadCount).map { _ in startThread { reading.run() } }
        for thread in threads { pthread_join(thread, nil) }
        if let error = reading.failure.withLock({ $0 }) { throw error }
        return Double(pieceCount * pieceByteCount) / (start.duration(to: .now) / .seconds(1))
    }

    private final class Reading: Sendable {
        let file: OffloadFile
        let pieceByteCount: Int
        let pieceCount: Int
        let stride: Int
        let next = Atomic<Int>(0)
        let failure = Mutex<ModelError?>(nil)

        init(file: OffloadFile, pieceByteCount: Int, pieceCount: Int) {
            let byteCount = file.byteCount.load(ordering: .relaxed)
            stride = byteCount / pieceCount / OffloadFile.alignment * OffloadFile.alignment
            self.file = file
            self.pieceByteCount = pieceByteCount
            self.pieceCount = pieceCount
        }

        func run() {
            guard let buffer = try? HostBuffer(byteCount: pieceByteCount) else { return }
            while true {
                let piece = next.wrappingAdd(1, ordering: .relaxed).oldValue
                if piece >= pieceCount { return }
                let bytes = UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: pieceByteCount)
                if let error = file.read(into: bytes, at: piece * stride) {
                    failure.withLock { $0 = error }
                    return
                }
            }
        }
    }
}
