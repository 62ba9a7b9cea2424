import CPUKernels
import Checkpoints
import SystemPackage
import TensorCore

/// A source in front of another one, which has what it does not change. As a checkpoint it holds no tiles.
protocol WrappingSource: TensorSource {
    associatedtype Source: TensorSource
    var source: Source { get }
}

extension WrappingSource {
    var origin: String { source.origin }
    func specification(of name: String) -> TensorSpecification? { source.specification(of: name) }
    func location(of name: String) -> FilePath { source.location(of: name) }

    func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        try source.read(block, into: destination, stride: stride, transposed: transposed, kernels: kernels)
    }

    func readVector(_ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>)
        throws(CheckpointError)
    {
        try source.readVector(name, elements: elements, into: destination)
    }
}

/// Of random weights too, what is quantized are then their elements.
struct StoredInRows<Source: TensorSource>: WrappingSource {
    let source: Source
}
