import CUDAKernelImage

/// The exchange with another lane: what is copied which way, and the words that say so.
extension GPUOperationCase {
    static let linkCases: [GPUOperationCase] =
        columns.map(publish) + columns.map(take) + [waitForMissingAnswer]

    /// Some columns of rows.
    private struct Columns: Sendable {
        var rows, stride, first, count: Int

        var sizes: String { "\(rows) rows, \(count) of \(stride) columns from \(first) on" }

        /// Of the element of a row and column in [rows, stride].
        func index(_ row: Int, _ column: Int) -> Int { row * stride + first + column }
    }

    /// 16 bytes at a time and 2, one block and several.
    private static let columns = [
        Columns(rows: 3, stride: 4096, first: 1024, count: 2048),
        Columns(rows: 1, stride: 12, first: 0, count: 12),
        Columns(rows: 9, stride: 36, first: 12, count: 24),
        Columns(rows: 2, stride: 64, first: 4, count: 56),
        Columns(rows: 96, stride: 5120, first: 2560, count: 2560),
        Columns(rows: 33, stride: 1001, first: 7, count: 994),
    ]

    private static let step: UInt32 = 7

    private static func publish(_ columns: Columns) -> GPUOperationCase {
        GPUOperationCase(operation: .publish, sizes: columns.sizes) { workbench in
            let values = workbench.random.halves(columns.rows * columns.stride)
            var expected: [UInt16] = []
            for row in 0..<columns.rows {
                for column in 0..<columns.count {
                    expected.append(values[columns.index(row, column)].bitPattern)
                }
            }
            let judged = expected
            let to = try workbench.reserve(expected.count, of: UInt16.self)
            // The step, the word that says it, the counter of the blocks.
            let words = try workbench.upload([step, step - 1, 0])
            let arguments = tandem_gpu_publish(
                from: try workbench.upload(values) + UInt64(columns.first * 2), to: to, step: words,
                word: words + 4, counter: words + 8, rows: UInt32(columns.rows),
                stride: UInt32(columns.stride), columns: UInt32(columns.count))
            return Trial {
                try workbench.kernels.link.publish(arguments, on: workbench.stream)
            } judge: {
                var deviation = Deviation()
                let found = try workbench.download(to, judged.count, of: UInt16.self)
                let wrongCount = zip(found, judged).count { $0 != $1 }
                deviation.note("\(wrongCount) elements are wrong", unless: wrongCount == 0)
                let left = try workbench.download(words, 3, of: UInt32.self)
                deviation.note("step, word and counter are \(left)", unless: left == [step, step, 0])
                return deviation
            }
        }
    }

    /// The answer is there, but for the rows of `to` that it goes to nothing may change.
    private static func take(_ columns: Columns) -> GPUOperationCase {
        GPUOperationCase(operation: .awaitAnswer, sizes: columns.sizes) { workbench in
            let values = workbench.random.halves(columns.rows * columns.count)
            var expected = [UInt16](repeating: .max, count: columns.rows * columns.stride)
            for row in 0..<columns.rows {
                for column in 0..<columns.count {
                    expected[columns.index(row, column)] = values[row * columns.count + column].bitPattern
                }
            }
            return try take(
                columns, try workbench.upload(values), answeredStep: step, expected: expected, abort: 0,
                workbench)
        }
    }

    /// Another step's answer is none.
    private static let waitForMissingAnswer = GPUOperationCase(
        operation: .awaitAnswer, sizes: "for an answer that never comes"
    ) { workbench in
        let columns = Columns(rows: 2, stride: 16, first: 8, count: 8)
        let values = workbench.random.halves(columns.rows * columns.count)
        return try take(
            columns, try workbench.upload(values), answeredStep: step - 1,
            expected: [UInt16](repeating: .max, count: columns.rows * columns.stride),
            abort: UInt32(TANDEM_GPU_WAITED_TOO_LONG), workbench)
    }

    private static func take(
        _ columns: Columns, _ from: UInt64, answeredStep: UInt32, expected: [UInt16], abort: UInt32,
        _ workbench: GPUWorkbench
    ) throws -> Trial {
        let to = try workbench.reserve(expected.count, of: UInt16.self)
        // The step, the word of the answer, the abort flag.
        let words = try workbench.upload([step, answeredStep, 0])
        let arguments = tandem_gpu_await(
            from: from, to: to + UInt64(columns.first * 2), step: words, word: words + 4, abort: words + 8,
            rows: UInt32(columns.rows), stride: UInt32(columns.stride), columns: UInt32(columns.count),
            timeout_nanoseconds: 10_000_000)
        return Trial {
            try workbench.kernels.link.await(arguments, on: workbench.stream)
        } judge: {
            var deviation = Deviation()
            let found = try workbench.download(to, expected.count, of: UInt16.self)
            let wrongCount = zip(found, expected).count { $0 != $1 }
            deviation.note("\(wrongCount) elements are wrong", unless: wrongCount == 0)
            let left = try workbench.download(words, 3, of: UInt32.self)
            deviation.note(
                "step, word and abort flag are \(left)", unless: left == [step, answeredStep, abort])
            return deviation
        }
    }
}
