import CUDA

/// A kernel for each head dimension of the published models, and one for all others.
struct HeadDimensionKernels: Sendable {
    private let of64, of80, of128, ofOthers: KernelFunction

    /// The published models' head dimensions.
    static let dimensions = [64, 80, 128]

    init(_ module: Module, _ name: String) throws(CUDAError) {
        of64 = try module.function(named: name + "_64")
        of80 = try module.function(named: name + "_80")
        of128 = try module.function(named: name + "_128")
        ofOthers = try module.function(named: name + "_any")
    }

    subscript(headDimension: Int) -> KernelFunction {
        switch headDimension {
        case 64: of64
        case 80: of80
        case 128: of128
        default: ofOthers
        }
    }
}
