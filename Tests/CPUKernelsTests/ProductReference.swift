import CPUKernels
import Glibc

/// activation(bias[o] + sum over i of x[r, i] * weights[o, i]) in double precision, as [rows * outputs].
func productReference(
    x: Matrix, weights: Matrix, bias: [Float]?, activation: tandem_activation
) -> [Reference] {
    let inputs = x.columns
    var result: [Reference] = []
    result.reserveCapacity(x.rows * weights.rows)
    x.elements.withUnsafeBufferPointer { x in
        weights.elements.withUnsafeBufferPointer { w in
            for xStart in stride(from: 0, to: x.count, by: inputs) {
                for wStart in stride(from: 0, to: w.count, by: inputs) {
                    let first = Double(bias?[wStart / inputs] ?? 0)
                    var sum = first
                    var magnitude = abs(first)
                    var i = 0
                    while i < inputs {
                        let term = Double(x[xStart &+ i]) * Double(w[wStart &+ i])
                        sum += term
                        magnitude += abs(term)
                        i &+= 1
                    }
                    result.append(Reference(value: activated(sum, activation), magnitude: magnitude))
                }
            }
        }
    }
    return result
}

func activated(_ x: Double, _ activation: tandem_activation) -> Double {
    switch activation {
    case TANDEM_RELU: max(x, 0)
    case TANDEM_GELU: x * (1 + erf(x / 2.0.squareRoot())) / 2
    default: x
    }
}

/// The first element of a strided result that the reference does not accept; nil where all are right.
func firstError(
    in result: FencedBuffer<Float>, stride: Int, columns: Int, _ reference: [Reference],
    _ tolerance: Tolerance
) -> String? {
    for (index, expected) in reference.enumerated() {
        let row = index / columns
        let column = index % columns
        let value = result.pointer[row * stride + column]
        if !expected.accepts(value, tolerance) {
            return "[\(row), \(column)] is \(value), should be \(expected.value)"
        }
    }
    return nil
}
