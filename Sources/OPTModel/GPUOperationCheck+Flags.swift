import CUDAKernelImage

/// The handshake with other streams, and the reading of memory that decode is measured against.
extension GPUOperationCase {
    static let flagCases: [GPUOperationCase] = [
        signal, waitForSetFlag, waitForMissingFlag, waitForOtherStream,
    ]

    private static let signal = GPUOperationCase(operation: .signal, sizes: "a flag and a notice") {
        workbench in
        let words = try workbench.upload([UInt32](repeating: 0, count: 3))
        return Trial {
            try workbench.kernels.signal(
                flag: words, value: 7, notice: words + 8, noticeValue: 9, on: workbench.stream)
        } judge: {
            var deviation = Deviation()
            let found = try workbench.download(words, 3, of: UInt32.self)
            deviation.note("flag and notice are \(found)", unless: found == [7, 0, 9])
            return deviation
        }
    }

    private static let waitForSetFlag = wait("for a flag that is set", value: 5, flag: 5, fails: false)
    private static let waitForMissingFlag = wait("for a flag that never is", value: 5, flag: 4, fails: true)

    /// The flag, then the failure.
    private static func wait(_ sizes: String, value: UInt32, flag: UInt32, fails: Bool) -> GPUOperationCase {
        GPUOperationCase(operation: .wait, sizes: sizes) { workbench in
            let words = try workbench.upload([flag, 0])
            return Trial {
                try workbench.kernels.wait(
                    flag: words, value: value, failure: words + 4, timeoutSeconds: 0.01,
                    on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(words, 2, of: UInt32.self)
                deviation.note(
                    "flag and failure are \(found)", unless: found == [flag, fails ? 1 : 0])
                return deviation
            }
        }
    }

    private static let waitForOtherStream = GPUOperationCase(
        operation: .wait, sizes: "for a flag that another stream sets"
    ) { workbench in
        let words = try workbench.upload([UInt32](repeating: 0, count: 3))
        // A kernel's first launch may load it, which waits for the streams.
        try workbench.kernels.signal(flag: words + 8, value: 1, on: workbench.otherStream)
        try workbench.kernels.wait(
            flag: words + 8, value: 1, failure: words + 4, timeoutSeconds: 0.01, on: workbench.otherStream)
        try workbench.finish()
        return Trial {
            try workbench.kernels.wait(
                flag: words, value: 1, failure: words + 4, timeoutSeconds: 2, on: workbench.stream)
            try workbench.kernels.signal(flag: words, value: 1, on: workbench.otherStream)
        } judge: {
            var deviation = Deviation()
            let found = try workbench.download(words, 3, of: UInt32.self)
            deviation.note("flag, failure and the other are \(found)", unless: found == [1, 0, 1])
            return deviation
        }
    }

    // MARK: Reading

    /// Less than 16 bytes at the end are not read.
    static let readCases = [16, 65536, 1_048_640, 3_000_007].map { byteCount in
        GPUOperationCase(operation: .read, sizes: "\(byteCount) bytes") { workbench in
            let words = (0..<byteCount / 4 + 1).map { UInt32(truncatingIfNeeded: $0 &* 2_654_435_761) }
            let initial: UInt32 = 5
            var sum = initial
            for word in words.prefix(byteCount / 16 * 4) { sum &+= word }
            let expected = sum
            let bytes = try workbench.upload(words)
            let digest = try workbench.upload([initial])
            return Trial {
                try workbench.kernels.read(
                    bytes, byteCount: byteCount, digest: digest, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(digest, 1, of: UInt32.self)[0]
                deviation.note("the digest is \(found) instead of \(expected)", unless: found == expected)
                return deviation
            }
        }
    }
}
