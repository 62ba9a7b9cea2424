import CPUKernels
import SystemPackage
import TensorCore

/// Random weights of the given shapes, made where they are wanted: `--path _DUMMY_`.
///
/// An element depends on (seed, tensor's name, element's index) alone, so that any thread can make any block,
/// and the same weights result from every placement. Weights have mean 0 and standard deviation 0.02, biases
/// a quarter of it, and layer norms' weights lie around 1; none is 0 or 1. A quantized matrix has random tiles: they are
/// not those of its fp16 elements, but as widely spread.
public struct DummyWeights: TensorSource {
    private let specifications: [String: TensorSpecification]
    private let seed: UInt64

    public init(specifications: [TensorSpecification], seed: UInt64) {
        self.seed = seed
        self.specifications = Dictionary(
            specifications.map {
                let name = TensorName.canonical($0.name)
                return (name, TensorSpecification(name: name, shape: $0.shape, scalarType: .float16))
            }, uniquingKeysWith: { first, _ in first })
    }

    public var origin: String { "_DUMMY_ (random weights)" }

    public func specification(of name: String) -> TensorSpecification? { specifications[name] }

    public func location(of name: String) -> FilePath { "_DUMMY_" }

    public func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        let columnCount = try require(block.name).checkedColumnCount(block)
        let generator = DummyGenerator(name: block.name, seed: seed)
        if transposed {
            generator.fillTransposed(
                block, columnCount: columnCount, destination: destination, stride: stride, kernels: kernels)
            return
        }
        for (index, row) in block.rows.enumerated() {
            generator.fill(
                destination + index * stride, from: row * columnCount + block.columns.lowerBound,
                count: block.columns.count)
        }
    }

    public func readVector(
        _ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>
    ) throws(CheckpointError) {
        try require(name).checkVector(elements)
        let generator = DummyGenerator(name: name, seed: seed)
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: elements.count) { halves in
            guard let start = halves.baseAddress else { return }
            generator.fill(start, from: elements.lowerBound, count: elements.count)
            for index in 0..<elements.count { destination[index] = Float(Float16(bitPattern: start[index])) }
        }
    }

    public func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool {
        try require(name, shape: [layout.outputs, layout.inputs])
        return true
    }

    public func readTiles(
        _ block: TileBlock, into destination: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        DummyTiles(name: block.name, seed: seed, block.layout.quantization).fill(destination, block)
    }
}
