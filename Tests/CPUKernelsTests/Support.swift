import CPUKernels
import Testing

/// The kernels of one instruction set that this machine has.
struct KernelSet: CustomTestStringConvertible, Sendable {
    nonisolated(unsafe) let kernels: UnsafePointer<tandem_cpu_kernels>
    var testDescription: String { String(cString: kernels.pointee.name) }

    static let all = [TANDEM_PORTABLE, TANDEM_AVX2, TANDEM_AVX512, TANDEM_AVX512_VNNI].compactMap { set in
        tandem_cpu_kernels_for(set).map { KernelSet(kernels: $0) }
    }
}

/// How far a result may be from the reference in double precision, per operation: relative to the sum of the
/// magnitudes of the terms, and absolute.
struct Tolerance {
    var relative: Double
    var absolute: Double

    static let product = Tolerance(relative: 1e-6, absolute: 0)
    static let activatedProduct = Tolerance(relative: 1.5e-6, absolute: 1e-6)
    static let attention = Tolerance(relative: 4e-6, absolute: 1e-7)
    static let layerNorm = Tolerance(relative: 2e-6, absolute: 1e-6)
    static let join = Tolerance(relative: 5e-7, absolute: 0)
    static let gelu = Tolerance(relative: 2e-7, absolute: 1e-6)
}

/// A value in double precision and the sum of the magnitudes of the terms it was made from.
struct Reference {
    var value: Double
    var magnitude: Double

    func accepts(_ result: Float, _ tolerance: Tolerance) -> Bool {
        abs(Double(result) - value) <= tolerance.relative * magnitude + tolerance.absolute
    }
}

struct Matrix {
    let rows: Int
    let columns: Int
    var elements: [Float]

    subscript(row: Int, column: Int) -> Float { elements[row * columns + column] }

    static func elementCount(_ rows: Int, _ columns: Int, stride: Int) -> Int {
        rows == 0 ? 0 : (rows - 1) * stride + columns
    }

    static func random(_ rows: Int, _ columns: Int, _ random: inout SplitMix64) -> Matrix {
        Matrix(rows: rows, columns: columns, elements: (0..<rows * columns).map { _ in random.unit() })
    }

    /// As `random`, with values that a half can hold.
    static func randomHalves(_ rows: Int, _ columns: Int, _ random: inout SplitMix64) -> Matrix {
        Matrix(
            rows: rows, columns: columns,
            elements: (0..<rows * columns).map { _ in Float(Float16(random.unit())) })
    }

    var halves: [UInt16] { elements.map { Float16($0).bitPattern } }
    var transposed: Matrix {
        var result = self.elements
        for row in 0..<rows {
            for column in 0..<columns { result[column * rows + row] = self[row, column] }
        }
        return Matrix(rows: columns, columns: rows, elements: result)
    }
}

struct SplitMix64: RandomNumberGenerator {
    var state: UInt64
    init(_ seed: Int) { state = UInt64(seed) }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Uniform in -1 ..< 1.
    mutating func unit() -> Float { Float(Int64(next() >> 40) - (1 << 23)) / Float(1 << 23) }
}
