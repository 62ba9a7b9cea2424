import CUDA
import CUDAKernelImage
import HostRuntime

/// What it costs that both lanes join at the end of every block.
extension GPUBandwidth {
    /// The joins of a step: attention and MLP of 32 layers.
    private static let joinCount = 64
    private static let hiddenSize = 4096
    private static let stepCount = 50

    /// The seconds of one join in a graph of 64: a row of 4096 in fp16 goes to the host, which answers at once, and its
    /// answer in fp32 is added to the residual stream. The median of some steps.
    public func joinSeconds() throws(ModelError) -> Double {
        do {
            let link = try LaneLink(
                LaneLink.Shape(
                    exchangeCount: Self.joinCount, inputByteCount: Self.hiddenSize * 2,
                    answerByteCount: Self.hiddenSize * 4), context: context)
            // The row, the residual stream, the step's number and a counter.
            let rowByteCount = Self.hiddenSize * 2
            let residualByteCount = Self.hiddenSize * 4
            let memory = try DeviceBuffer(byteCount: rowByteCount + residualByteCount + 8, context: context)
            let residual = memory.address + UInt64(rowByteCount)
            let step = residual + UInt64(residualByteCount)
            try stream.fill(memory.address, byteCount: rowByteCount + residualByteCount + 8)
            let number = try PinnedBuffer(try HostBuffer(byteCount: 4), context: context)
            let graph = try Graph(capturing: stream) { () throws(CUDAError) in
                try stream.upload(number.baseAddress, to: step, byteCount: 4)
                for exchange in 0..<Self.joinCount {
                    try kernels.link.publish(
                        tandem_gpu_publish(
                            from: memory.address, to: link.inputAddress, step: step,
                            word: link.inputWordAddress(exchange), counter: step + 4, rows: 1,
                            stride: UInt32(Self.hiddenSize), columns: UInt32(Self.hiddenSize)), on: stream)
                    try kernels.link.join(
                        tandem_gpu_join(
                            from: link.answerAddress, to: residual, step: step,
                            word: link.answerWordAddress(exchange), abort: link.abortAddress, rows: 1,
                            stride: UInt32(Self.hiddenSize), columns: UInt32(Self.hiddenSize), adds: 1,
                            timeout_nanoseconds: 2_000_000_000), on: stream)
                }
            }.instantiate()
            try stream.synchronize()
            var seconds: [Double] = []
            for step in 1...UInt32(Self.stepCount) {
                number.baseAddress.storeBytes(of: step, as: UInt32.self)
                let start = ContinuousClock.now
                try context.whileKernelsWait {
                    try graph.launch(on: stream)
                    for exchange in 0..<Self.joinCount {
                        guard link.waitForInput(of: exchange, step: step) else { return try link.check() }
                        link.publishAnswer(of: exchange, step: step)
                    }
                }
                try stream.synchronize()
                try link.check()
                seconds.append(start.duration(to: .now) / .seconds(1))
            }
            seconds.sort()
            return seconds[seconds.count / 2] / Double(Self.joinCount)
        } catch {
            throw ModelError(loading: error)
        }
    }
}
