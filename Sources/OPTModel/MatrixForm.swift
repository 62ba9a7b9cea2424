import HostRuntime
import TensorCore

/// How a matrix of a layer, or a range of one, lies in memory: by outputs as the checkpoint has it, or by inputs, turned
/// over; in fp16 or quantized. A range of its rows, which are outputs or inputs, is one run of bytes.
struct MatrixForm: Sendable, Hashable {
    let order: QuantizedLayout.Order
    /// The elements of a row: inputs, or outputs.
    let width: Int
    /// nil for fp16.
    let quantization: Quantization?
    /// Inputs after which a group ends in any case.
    let period: Int

    init(
        _ order: QuantizedLayout.Order, width: Int, _ quantization: Quantization?,
        period: Int = Quantization.groupSize
    ) {
        self.order = order
        self.width = width
        self.quantization = quantization
        self.period = period
    }

    /// The bytes of the first `rowCount` rows, which is where the next one begins.
    func byteCount(_ rowCount: Int) -> Int {
        guard quantization != nil else { return rowCount * width * MemoryLayout<UInt16>.size }
        return rowCount == 0 ? 0 : layout(rowCount)!.byteCount
    }

    /// The tiles of the first `rowCount` rows; nil for fp16.
    func layout(_ rowCount: Int) -> QuantizedLayout? {
        quantization.map {
            order == .byOutputs
                ? QuantizedLayout($0, order, outputs: rowCount, inputs: width, period: period)
                : QuantizedLayout($0, order, outputs: width, inputs: rowCount, period: period)
        }
    }

    /// Ranges of rows begin at a multiple of it, at least.
    var unit: Int {
        guard quantization != nil else { return WorkShares.productUnit }
        return order == .byOutputs ? Quantization.tileOutputs : period
    }
}

extension OPTConfiguration {
    /// Queries, keys and values, each: [heads · head dimension, hidden], by outputs.
    var qkvForm: MatrixForm { MatrixForm(.byOutputs, width: hiddenSize, quantization) }

    /// The output projection: [heads · head dimension, hidden], by inputs. No group of inputs is of two heads.
    var outputForm: MatrixForm {
        MatrixForm(
            .byInputs, width: hiddenSize, quantization,
            period: Quantization.period(headDimension: headDimension))
    }

    /// [neurons, hidden], by outputs.
    var fc1Form: MatrixForm { qkvForm }

    /// [neurons, hidden], by inputs.
    var fc2Form: MatrixForm { MatrixForm(.byInputs, width: hiddenSize, quantization) }

    /// The form of a tensor of a layer; nil for vectors and for the tables at the model's ends.
    func form(of tensor: TensorSpecification) -> MatrixForm? {
        guard tensor.shape.rank == 2, tensor.name.contains(".layers.") else { return nil }
        if tensor.name.hasSuffix(".out_proj.weight") { return outputForm }
        return tensor.name.hasSuffix(".fc2.weight") ? fc2Form : qkvForm
    }

    /// The tiles of such a tensor; nil where it is kept in full.
    func layout(of tensor: TensorSpecification) -> QuantizedLayout? {
        guard let form = form(of: tensor) else { return nil }
        return form.layout(tensor.shape.dimensions[form.order == .byOutputs ? 0 : 1])
    }

    /// The same model with its layers' matrices kept so, and its cache in 4 bits; the matrices of one that has been converted
    /// stay as they are.
    ///
    /// - Throws: where its sizes do not allow it, or it has been converted to another form.
    public func quantized(_ quantization: Quantization?, cache: Bool = false) throws(ModelError)
        -> OPTConfiguration
    {
        if let own = self.quantization, let quantization, quantization != own {
            throw ModelError(
                .invalidConfiguration,
                "\(name) has been quantized to \(own.bits) bits, and \(quantization.bits) were asked for",
                advice: "leave --compress-weight out, or give the model that it was converted from")
        }
        if quantization != nil, let quantizationProblem {
            throw ModelError(
                .invalidConfiguration, quantizationProblem, advice: "leave --compress-weight out")
        }
        if cache, !headDimension.isMultiple(of: Quantization.tileOutputs) {
            throw ModelError(
                .invalidConfiguration,
                "the cache of \(name) cannot be compressed, as its head dimension of \(headDimension) is no multiple of "
                    + "\(Quantization.tileOutputs)",
                advice: "leave --compress-cache out")
        }
        var configuration = self
        configuration.quantization = quantization ?? self.quantization
        configuration.hasQuantizedCache = cache
        return configuration
    }

    /// Why the layers' matrices cannot be quantized, in a sentence; nil where they can.
    public var quantizationProblem: String? {
        let sizes = [
            ("hidden size", hiddenSize, Quantization.tileOutputs),
            ("head dimension", headDimension, Quantization.tileOutputs),
            ("feed-forward size", feedForwardSize, Quantization.groupSize),
        ]
        guard let (size, value, unit) = sizes.first(where: { !$0.1.isMultiple(of: $0.2) }) else { return nil }
        return
            "the weights of \(name) cannot be compressed, as its \(size) of \(value) is no multiple of \(unit)"
    }
}
