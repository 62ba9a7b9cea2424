import CPUKernels

/// The instruction set that the CPU kernels use.
public enum InstructionSet: String, Sendable, CaseIterable {
    case avx512VNNI = "avx512-vnni"
    case avx512
    case avx2
    case portable

    /// Those that this processor has, fastest first.
    public static var available: [InstructionSet] { allCases.filter { $0.kernels != nil } }

    var kernels: UnsafePointer<tandem_cpu_kernels>? {
        switch self {
        case .avx512VNNI: tandem_cpu_kernels_for(TANDEM_AVX512_VNNI)
        case .avx512: tandem_cpu_kernels_for(TANDEM_AVX512)
        case .avx2: tandem_cpu_kernels_for(TANDEM_AVX2)
        case .portable: tandem_cpu_kernels_for(TANDEM_PORTABLE)
        }
    }
}
