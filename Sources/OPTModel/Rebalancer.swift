/// Decides where the boundary between streamed and CPU-computed neurons should stand, from what both sides took in a
/// step.
///
/// PCIe copies and the CPU computes at the same time, and a step takes as long as the longer of them. What a neuron costs on
/// either side is known from its bytes and the rates of the last step; moving so many that both take equally long would be
/// right if the rates stayed. They do not: the CPU's alone varies by some percent from step to step. So the boundary goes a
/// part of the way where the sides are nearly even, and most of it where they are not.
struct Rebalancer {
    /// Of the way to where both sides would take equally long.
    static let smallGain = 0.5
    static let largeGain = 0.9
    /// The difference, as a part of the step, that is more than what steps vary by.
    static let largeDifference = 0.15
    /// What a block takes of the CPU's time beside its part of the block: the way of the values there and back, and the
    /// norm between two blocks.
    static let secondsPerBlock = 12e-6

    /// One neuron's weights, of all layers.
    let bytesPerNeuron: Int
    /// The exchanges of a step.
    let blockCount: Int

    /// What was seen in a step.
    struct Step {
        /// The CPU's parts of all blocks.
        var cpuSeconds: Double
        /// The weights that it read for them.
        var cpuByteCount: Int
        var streamedByteCount: Int
        /// While copies were on their way.
        var uploadBytesPerSecond: Double
    }

    /// Where the boundary should stand after a step that had it at `boundary`.
    func boundary(after step: Step, at boundary: Int) -> Int {
        guard step.cpuByteCount > 0, step.cpuSeconds > 0, step.uploadBytesPerSecond > 0 else {
            return boundary
        }
        let cpu = step.cpuSeconds + Double(blockCount) * Self.secondsPerBlock
        let copies = Double(step.streamedByteCount) / step.uploadBytesPerSecond
        let secondsPerByte = step.cpuSeconds / Double(step.cpuByteCount) + 1 / step.uploadBytesPerSecond
        let neurons = (cpu - copies) / (secondsPerByte * Double(bytesPerNeuron))
        let isLarge = abs(cpu - copies) > Self.largeDifference * max(cpu, copies)
        return boundary + Int(((isLarge ? Self.largeGain : Self.smallGain) * neurons).rounded())
    }
}
