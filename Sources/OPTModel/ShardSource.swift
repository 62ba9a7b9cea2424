import CPUKernels
import Checkpoints
import SystemPackage
import TensorCore

/// The tensors of one process's part of a model, read from the whole model's: of what another process has, nothing is read.
///
/// The parts' results add up to the whole's: what the whole adds once, the positions and the biases behind each block's sum,
/// the first part has, and all others have zeros.
public struct ShardSource<Whole: TensorSource>: TensorSource {
    private let whole: Whole
    private let parts: [String: Part]

    /// Where a tensor of the part lies in the whole one.
    private struct Part {
        var specification: TensorSpecification
        var firstRow = 0
        /// A vector's elements are the columns of its one row.
        var firstColumn = 0
        var isZero = false
        /// The whole tensor's, where it is stored so.
        var tiles: QuantizedLayout?

        /// The unit of the whole tensor with which the part begins.
        var firstUnit: Int { tiles!.unit(from: tiles!.order == .byOutputs ? firstRow : firstColumn) }
    }

    /// - Throws: where the whole model's tensors are not all there, in its shapes.
    public init(_ whole: Whole, _ shard: ModelShard) throws(CheckpointError) {
        self.whole = whole
        var parts: [String: Part] = [:]
        let all = shard.whole.tensorSpecifications
        for (specification, own) in zip(all, shard.configuration.tensorSpecifications) {
            var part = Part(specification: own)
            let layout = shard.whole.layout(of: specification)
            if try whole.require(specification, tiles: layout) { part.tiles = layout }
            part.isZero = !shard.isFirst && Self.isAddedOnce(own.name)
            let sizes = zip(specification.shape.dimensions, own.shape.dimensions)
            if let axis = Array(sizes).firstIndex(where: { $0 != $1 }) {
                let first = shard.first(of: own.name)
                if own.shape.rank == 2 && axis == 0 {
                    part.firstRow = first
                } else {
                    part.firstColumn = first
                }
            }
            parts[own.name] = part
        }
        self.parts = parts
    }

    public func specification(of name: String) -> TensorSpecification? { parts[name]?.specification }

    public func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError) {
        let part = parts[block.name]!
        if block.rows.isEmpty || block.columns.isEmpty { return }
        if part.isZero {
            let (lines, width) = transposed ? (block.columns, block.rows) : (block.rows, block.columns)
            for line in 0..<lines.count {
                (destination + line * stride).update(repeating: 0, count: width.count)
            }
            return
        }
        try whole.read(
            TensorBlock(
                name: block.name, rows: block.rows.moved(by: part.firstRow),
                columns: block.columns.moved(by: part.firstColumn)), into: destination, stride: stride,
            transposed: transposed, kernels: kernels)
    }

    public func readVector(
        _ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>
    ) throws(CheckpointError) {
        let part = parts[name]!
        if elements.isEmpty { return }
        if part.isZero { return destination.update(repeating: 0, count: elements.count) }
        try whole.readVector(name, elements: elements.moved(by: part.firstColumn), into: destination)
    }

    public func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool {
        parts[name]?.tiles != nil
    }

    public func readTiles(
        _ block: TileBlock, into destination: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        let part = parts[block.name]!
        let inWhole = TileBlock(
            name: block.name, layout: part.tiles!, units: block.units.moved(by: part.firstUnit))
        precondition(
            inWhole.bytes.count == block.bytes.count,
            "ShardSource: \(block.bytes.count) bytes of \(block.name) are \(inWhole.bytes.count) of the whole"
        )
        try whole.readTiles(inWhole, into: destination)
    }

    private static func isAddedOnce(_ name: String) -> Bool {
        name.contains("embed_positions") || name.hasSuffix(".out_proj.bias") || name.hasSuffix(".fc2.bias")
    }

    public var origin: String { whole.origin }
    public func location(of name: String) -> FilePath { whole.location(of: name) }
}

extension ModelShard {
    /// The first row, column or element that a part has of a tensor that is divided.
    fileprivate func first(of name: String) -> Int {
        if name.contains(".self_attn.") { return heads.lowerBound * whole.headDimension }
        return name.contains("embed_tokens") ? tokens.lowerBound : neurons.lowerBound
    }
}

extension Range<Int> {
    fileprivate func moved(by offset: Int) -> Range<Int> { lowerBound + offset..<upperBound + offset }
}
