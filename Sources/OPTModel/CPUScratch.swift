import CPUKernels
import HostRuntime

/// The activations of a CPU lane, made once for the most rows that a step has. Shapes are [rows, columns] in fp32.
struct CPUScratch: ~Copyable {
    /// The rows that the kernels for few rows take; more of them are a matrix product.
    static let fewRows = 32

    private let buffer: HostBuffer
    /// [rows, hidden]: the residual stream.
    let residual: UnsafeMutablePointer<Float>
    /// [rows, 3, heads · head dimension]
    let qkv: UnsafeMutablePointer<Float>
    /// [rows, heads · head dimension]: what attention gives to the output projection.
    let attended: UnsafeMutablePointer<Float>
    /// [rows, neurons]: what fc1 gives to fc2.
    let neurons: UnsafeMutablePointer<Float>
    /// [rows, hidden]: a block's sum in prefill; the last rows before the logits.
    let blockSum: UnsafeMutablePointer<Float>
    /// [rows, embedding]: rows at the narrow end of a model with embedding projections.
    let narrow: UnsafeMutablePointer<Float>
    /// Activations in the layout of the matrix product, at most [rows, max(hidden, neurons)].
    let packed: UnsafeMutablePointer<Float>

    private let normalized: UnsafeMutablePointer<Float>
    private let partials: UnsafeMutablePointer<Float>
    private let gemm: UnsafeMutablePointer<Float>
    private let attention: UnsafeMutablePointer<Float>
    private let fewRowsStride: Int
    private let gemmStride: Int
    private let attentionStride: Int
    private let groups, inputGroups: UnsafeMutablePointer<Float>
    private let groupsStride, inputGroupsStride: Int

    init(
        _ configuration: OPTConfiguration, rowCapacity: Int, workerCount: Int, kernels: tandem_cpu_kernels
    ) throws(HostMemoryError) {
        let hidden = configuration.hiddenSize
        let panelRows = kernels.gemm_panel_rows
        let packedRows = (rowCapacity + panelRows - 1) / panelRows * panelRows
        fewRowsStride = Self.fewRows * hidden
        gemmStride = kernels.gemm_scratch_count
        attentionStride = kernels.attention_scratch_count(configuration.maximumPositions)

        /// Floats of what products with quantized matrices want of few rows.
        func strideOfGroups(_ form: MatrixForm, inputs: Int) -> Int {
            guard form.quantization != nil else { return 0 }
            let byteCount = LayerMatrix.groupByteCount(
                rowCount: Self.fewRows, inputs: inputs, period: form.period)
            return divideUp(byteCount, 64) * 16
        }
        groupsStride = strideOfGroups(configuration.qkvForm, inputs: hidden)
        inputGroupsStride = [configuration.outputForm, configuration.fc2Form].map {
            strideOfGroups($0, inputs: LayerMatrix.inputsAtOnce($0.period))
        }.max()!

        var floatCount = 0
        func reserve(_ count: Int) -> Int {
            defer { floatCount += (count + 15) / 16 * 16 }
            return floatCount
        }
        let offsets = [
            reserve(rowCapacity * hidden),
            reserve(rowCapacity * 3 * configuration.attentionWidth),
            reserve(rowCapacity * configuration.attentionWidth),
            reserve(rowCapacity * configuration.feedForwardSize),
            reserve(rowCapacity * hidden),
            reserve(configuration.hasEmbeddingProjections ? rowCapacity * configuration.embeddingSize : 0),
            reserve(packedRows * max(hidden, configuration.feedForwardSize)),
            reserve(workerCount * fewRowsStride),
            reserve(workerCount * fewRowsStride),
            reserve(workerCount * ((gemmStride + 15) / 16 * 16)),
            reserve(workerCount * ((attentionStride + 15) / 16 * 16)),
            reserve(workerCount * groupsStride),
            reserve(workerCount * inputGroupsStride),
        ]
        buffer = try HostBuffer(byteCount: floatCount * MemoryLayout<Float>.size)
        let base = buffer.baseAddress.assumingMemoryBound(to: Float.self)
        residual = base + offsets[0]
        qkv = base + offsets[1]
        attended = base + offsets[2]
        neurons = base + offsets[3]
        blockSum = base + offsets[4]
        narrow = base + offsets[5]
        packed = base + offsets[6]
        normalized = base + offsets[7]
        partials = base + offsets[8]
        gemm = base + offsets[9]
        attention = base + offsets[10]
        groups = base + offsets[11]
        inputGroups = base + offsets[12]
    }

    /// [few rows, hidden]: a worker's own copy of a block's normalized input.
    func normalized(worker: Int) -> UnsafeMutablePointer<Float> { normalized + worker * fewRowsStride }

    /// [few rows, hidden]: a worker's share of a block's sum; the workers' shares lie `partialStride` apart.
    func partial(worker: Int) -> UnsafeMutablePointer<Float> { partials + worker * fewRowsStride }

    var partialStride: Int { fewRowsStride }

    func gemm(worker: Int) -> UnsafeMutablePointer<Float> { gemm + worker * ((gemmStride + 15) / 16 * 16) }

    /// A worker's own copy of a block's input, rounded for products with quantized matrices.
    func groups(worker: Int) -> UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(groups + worker * groupsStride)
    }

    /// The same of what it gives to a block's second product, a part at a time.
    func inputGroups(worker: Int) -> UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(inputGroups + worker * inputGroupsStride)
    }

    func attention(worker: Int) -> UnsafeMutablePointer<Float> {
        attention + worker * ((attentionStride + 15) / 16 * 16)
    }
}
