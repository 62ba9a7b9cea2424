import CPUKernels
import SystemPackage
import TensorCore

/// Where the engine's weights come from: files or random numbers.
///
/// Names are canonical, see `TensorName`. Any number of threads may read at the same time. A block outside
/// the tensor is a programmer's mistake and stops the program; whatever a file can get wrong is thrown.
public protocol TensorSource: Sendable {
    /// What is stored under a name, or nil where nothing is.
    func specification(of name: String) -> TensorSpecification?

    /// Reads a block as fp16: destination[r * stride + c], or with `transposed` destination[c * stride + r],
    /// where r and c count from the block's corner. `stride` is in elements.
    ///
    /// Throws where a finite stored value does not fit into fp16; the destination's contents are then
    /// undefined.
    func read(
        _ block: TensorBlock, into destination: UnsafeMutablePointer<UInt16>, stride: Int, transposed: Bool,
        kernels: UnsafePointer<tandem_cpu_kernels>
    ) throws(CheckpointError)

    /// Reads a range of a vector (a bias, a layer norm's weight) in fp32.
    func readVector(_ name: String, elements: Range<Int>, into destination: UnsafeMutablePointer<Float>)
        throws(CheckpointError)

    /// Whether a matrix is stored quantized, in tiles of this layout, which `readTiles` copies.
    ///
    /// Throws where it should be and is not, or in other tiles.
    func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool

    /// Copies tiles that `holdsTiles` found, and checks them.
    func readTiles(_ block: TileBlock, into destination: UnsafeMutableRawPointer) throws(CheckpointError)

    /// Where the tensors come from, for messages: "/models/opt-30b (safetensors, 7 shards)".
    var origin: String { get }

    /// The file of a tensor that is there, or the folder for one that is not.
    func location(of name: String) -> FilePath
}

/// A rectangle of a matrix [rows, columns]; a vector counts as a matrix of one row.
public struct TensorBlock: Sendable, Hashable {
    public var name: String
    public var rows: Range<Int>
    public var columns: Range<Int>

    public init(name: String, rows: Range<Int>, columns: Range<Int>) {
        self.name = name
        self.rows = rows
        self.columns = columns
    }
}

/// A run of units of a quantized matrix: of 16 outputs each, or a group of inputs.
public struct TileBlock: Sendable, Hashable {
    public var name: String
    /// The whole matrix's.
    public var layout: QuantizedLayout
    public var units: Range<Int>

    public init(name: String, layout: QuantizedLayout, units: Range<Int>) {
        self.name = name
        self.layout = layout
        self.units = units
    }

    /// Where the run lies in the matrix.
    public var bytes: Range<Int> {
        layout.offset(ofUnit: units.lowerBound)..<layout.offset(ofUnit: units.upperBound)
    }
}

/// What most sources are: not quantized.
extension TensorSource {
    public func holdsTiles(of name: String, _ layout: QuantizedLayout) throws(CheckpointError) -> Bool {
        false
    }

    public func readTiles(
        _ block: TileBlock, into destination: UnsafeMutableRawPointer
    ) throws(CheckpointError) {
        preconditionFailure("\(origin) holds no tiles of \(block.name)")
    }
}

extension TensorSource {
    /// The tensor's specification, given that it is there in exactly this shape.
    @discardableResult
    public func require(_ name: String, shape: Shape) throws(CheckpointError) -> TensorSpecification {
        let found = try require(name)
        guard found.shape == shape else {
            throw CheckpointError(
                .wrongShape, file: location(of: name), tensor: name,
                "The shape is \(found.shape), and the model's configuration asks for \(shape). "
                    + "Take config.json and the weights from the same model.")
        }
        return found
    }

    /// Makes sure that a tensor is there: in these tiles, where it is stored quantized, or in full.
    ///
    /// - Returns: whether it is stored in tiles.
    @discardableResult
    public func require(
        _ specification: TensorSpecification, tiles: QuantizedLayout?
    ) throws(CheckpointError) -> Bool {
        if let tiles, try holdsTiles(of: specification.name, tiles) { return true }
        try require(specification.name, shape: specification.shape)
        return false
    }

    func require(_ name: String) throws(CheckpointError) -> TensorSpecification {
        guard let found = specification(of: name) else {
            throw CheckpointError(
                .missingTensor, file: location(of: name), tensor: name,
                "The tensor is missing from \(origin). Download the checkpoint again, or check that it is "
                    + "an OPT model with the layers that config.json counts.")
        }
        return found
    }
}

extension TensorSpecification {
    /// Stops the program where a block does not lie inside the tensor; returns the matrix's row length.
    func checkedColumnCount(_ block: TensorBlock) -> Int {
        precondition(shape.rank == 1 || shape.rank == 2, "\(name) \(shape) is no matrix and no vector")
        let rowCount = shape.rank == 2 ? shape.dimensions[0] : 1
        let columnCount = shape.dimensions[shape.rank - 1]
        precondition(
            block.rows.lowerBound >= 0 && block.rows.upperBound <= rowCount
                && block.columns.lowerBound >= 0 && block.columns.upperBound <= columnCount,
            "rows \(block.rows), columns \(block.columns) of \(name) \(shape)")
        return columnCount
    }

    /// Stops the program where the tensor is no vector or the range leaves it.
    func checkVector(_ elements: Range<Int>) {
        precondition(
            shape.rank == 1 && elements.lowerBound >= 0 && elements.upperBound <= shape.dimensions[0],
            "elements \(elements) of \(name) \(shape)")
    }
}
