import Checkpoints
import TensorCore

/// The weight files of a converted folder, before they are written: which tensor lies where.
struct ConvertedCheckpoint: Sendable {
    struct Tensor: Sendable {
        /// The model's.
        var specification: TensorSpecification
        /// nil where it is kept in full.
        var form: MatrixForm?
        var units: DigestUnits
        /// As it is stored: bytes, fp16, or fp32 for vectors.
        var stored: TensorSpecification
    }

    struct File: Sendable {
        var name: String
        /// Tiles first: they begin at multiples of 64 bytes.
        var tensors: [Tensor]
        /// The tensors, then their digests in the same order.
        var layout: SafetensorsLayout

        /// Where the digests of all tensors begin.
        var digestsOffset: Int { layout.offsets[tensors.count] }
        var digestCount: Int { tensors.reduce(0) { $0 + $1.units.count } }
    }

    let files: [File]

    static let mostFileByteCount = 4_000_000_000

    /// - Parameter mostFileByteCount: of a file's tensors, unless there is but one.
    init(_ configuration: OPTConfiguration, mostFileByteCount: Int = mostFileByteCount) {
        var parts: [[Tensor]] = [[]]
        var byteCount = 0
        for specification in configuration.tensorSpecifications {
            let tensor = Tensor(specification, of: configuration)
            if byteCount + tensor.byteCount > mostFileByteCount, !parts.last!.isEmpty {
                parts.append([])
                byteCount = 0
            }
            parts[parts.count - 1].append(tensor)
            byteCount += tensor.byteCount
        }
        func number(_ number: Int) -> String {
            String(repeating: "0", count: max(0, 5 - "\(number)".count)) + "\(number)"
        }
        files = parts.enumerated().map { index, tensors in
            let tensors = tensors.filter { $0.form != nil } + tensors.filter { $0.form == nil }
            return File(
                name: parts.count == 1
                    ? "model.safetensors"
                    : "model-\(number(index + 1))-of-\(number(parts.count)).safetensors",
                tensors: tensors,
                layout: SafetensorsLayout(
                    tensors.map(\.stored) + tensors.map { $0.stored.companion($0.units) }))
        }
    }

    /// Of all files.
    var byteCount: Int { files.reduce(0) { $0 + $1.layout.byteCount } }

    /// Of the tensors alone, without headers and digests.
    var tensorByteCount: Int { files.reduce(0) { $0 + $1.tensors.reduce(0) { $0 + $1.byteCount } } }

    /// The index's text; nil for one file, which has none.
    var index: String? {
        guard files.count > 1 else { return nil }
        return ShardIndex.text(
            files.map { file in
                (
                    file.name,
                    file.tensors.flatMap { [$0.stored.name, $0.stored.companion($0.units).name] }
                )
            }, byteCount: tensorByteCount)
    }

    static let indexName = "model.safetensors.index.json"
}

extension ConvertedCheckpoint.Tensor {
    init(_ specification: TensorSpecification, of configuration: OPTConfiguration) {
        self.specification = specification
        form = configuration.form(of: specification)
        stored = specification
        if let layout = configuration.layout(of: specification) {
            units = .tiles(layout)
            stored.shape = [layout.byteCount]
            stored.scalarType = .uint8
        } else {
            stored.scalarType = specification.shape.rank == 1 ? .float32 : .float16
            units = DigestUnits(stored)
        }
    }

    var byteCount: Int { stored.byteCount }

    /// Reserves room for the whole tensor, and returns its offset in bytes.
    func reserve(in slots: inout SlotLayout) -> Int {
        guard let form else {
            return specification.shape.rank == 1
                ? slots.vector(specification)! : slots.matrix(specification)
        }
        return slots.matrix(
            specification, form, 0..<specification.shape.dimensions[form.order == .byOutputs ? 0 : 1])
    }
}

extension OPTConfiguration {
    /// The bytes of the weight files of this model's converted folder.
    public var convertedByteCount: Int { ConvertedCheckpoint(self).byteCount }
}
