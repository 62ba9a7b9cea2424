import CUDA

/// Every GPU operation on random inputs beside its scalar reference: one table for `tandem doctor` and for the tests.
public struct GPUOperationCheck: Sendable {
    let cases: [GPUOperationCase]

    /// - Parameters:
    ///   - device: the GPU that the checks will run on; those of kernels that its image lacks are left out.
    ///   - isQuick: leaves most sizes of each operation out.
    public init(for device: Device, isQuick: Bool = false) {
        self.init(hasCopyEngine: GPUKernels.hasCopyEngine(device), isQuick: isQuick)
    }

    init(hasCopyEngine: Bool, isQuick: Bool = false) {
        var counts: [GPUOperation: Int] = [:]
        let all = GPUOperationCase.all + (hasCopyEngine ? GPUOperationCase.copyEngineCases : [])
        cases = all.filter { one in
            let index = counts[one.operation, default: 0]
            counts[one.operation] = index + 1
            return !isQuick || index % 5 == 0
        }
    }

    /// How many checks there are.
    public var count: Int { cases.count }

    /// Runs the checks, one after the other, on the calling thread, which gets the context.
    ///
    /// A failure that the GPU cannot go on after is the last result: there are fewer than `count` then. It leaves its
    /// memory to the end of the process, as freeing it would wait for the GPU.
    ///
    /// - Parameter report: called with each result.
    public func run(on context: Context, report: (GPUOperationResult) -> Void) throws(ModelError) {
        do {
            let workbench = try GPUWorkbench(context)
            for one in cases {
                let (result, canGoOn) = one.check(on: workbench)
                report(result)
                if !canGoOn {
                    _ = Unmanaged.passRetained(workbench)
                    return
                }
            }
        } catch {
            throw ModelError(loading: error)
        }
    }
}

/// One operation at one size.
struct GPUOperationCase: Sendable {
    let operation: GPUOperation
    let sizes: String
    /// Lays inputs and outputs out.
    let prepare: @Sendable (GPUWorkbench) throws -> Trial

    /// An operation that is ready to run.
    struct Trial {
        /// Puts it into the workbench's stream; may be called again.
        let launch: () throws -> Void
        /// Compares what the first launch has left.
        let judge: () throws -> Deviation
    }

    static let all =
        embedCases + layerNormCases + linearCases + linearNormalizedCases + linearTransposedCases + gemmCases
        + linearQuantizedCases + linearQuantizedByInputsCases + gemmQuantizedCases + storeCases
        + attentionDecodeCases + attentionPrefillCases + sampleCases + flagCases + linkCases
        + readCases

    /// Of kernels in the image for 9.0 alone.
    static let copyEngineCases =
        linearBoxesCases + linearBoxesTransposedCases + layerNormPartsCases + attentionRowsCases

    func check(on workbench: GPUWorkbench) -> (GPUOperationResult, canGoOn: Bool) {
        var result = GPUOperationResult(
            operation: operation, sizes: sizes, error: nil, tolerance: operation.tolerance, passed: false)
        do {
            try workbench.clear()
            let trial = try prepare(workbench)
            try trial.launch()
            try workbench.finish()
            var deviation = try trial.judge()
            deviation.note("memory behind a result was written", unless: try !workbench.isAnyGuardBroken())
            result.error = deviation.error
            result.fault = deviation.fault
            if result.error == nil { result.fault = result.fault ?? "a result is no number, or should be 0" }
            result.microseconds = try workbench.microseconds(runs: 3, trial.launch)
            result.passed = (result.error ?? .infinity) <= operation.tolerance && result.fault == nil
            return (result, true)
        } catch {
            result.fault = "\(error)"
            // After a kernel's failure the context is lost, and what does not end goes on.
            return (result, error is ModelError)
        }
    }
}
