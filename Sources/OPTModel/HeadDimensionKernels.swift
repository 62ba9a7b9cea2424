import CUDA

/// A kernel for each head dimension of the published models, and one for all others, where there is one.
struct HeadDimensionKernels: Sendable {
    private let of64, of80, of128: KernelFunction
    private let ofOthers: KernelFunction?

    /// The published models' head dimensions.
    static let dimensions = [64, 80, 128]

    init(_ module: Module, _ name: String, hasOthers: Bool = true) throws(CUDAError) {
        of64 = try module.function(named: name + "_64")
        of80 = try module.function(named: name + "_80")
        of128 = try module.function(named: name + "_128")
        ofOthers = hasOthers ? try module.function(named: name + "_any") : nil
    }

    /// One kernel for all.
    init(_ kernel: KernelFunction) {
        of64 = kernel
        of80 = kernel
        of128 = kernel
        ofOthers = kernel
    }

    subscript(headDimension: Int) -> KernelFunction? {
        switch headDimension {
        case 64: of64
        case 80: of80
        case 128: of128
        default: ofOthers
        }
    }
}
