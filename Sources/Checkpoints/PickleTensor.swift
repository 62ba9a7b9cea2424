import TensorCore

/// The names that a model's pickle may refer to.
enum PickleGlobal: String {
    case orderedDictionary = "collections.OrderedDict"
    case rebuildTensor = "torch._utils._rebuild_tensor_v2"
    case rebuildParameter = "torch._utils._rebuild_parameter"
    case halfStorage = "torch.HalfStorage"
    case bfloat16Storage = "torch.BFloat16Storage"
    case floatStorage = "torch.FloatStorage"

    var storageType: ScalarType? {
        switch self {
        case .halfStorage: .float16
        case .bfloat16Storage: .bfloat16
        case .floatStorage: .float32
        case .orderedDictionary, .rebuildTensor, .rebuildParameter: nil
        }
    }
}

/// A piece of memory that tensors lie in: the archive's entry `data/<key>`.
struct PickleStorage {
    let scalarType: ScalarType
    let key: String
    let elementCount: Int
}

/// A tensor as the pickle describes it; nothing of it has been checked against the archive.
struct PickleTensor {
    let storage: PickleStorage
    /// The first element's place in the storage.
    let elementOffset: Int
    let dimensions: [Int]
    let strides: [Int]
    /// Where the pickle builds the tensor, for messages.
    let byteOffset: Int

    /// Whether the elements follow one another in row-major order. Extents of 1 are never stepped over, so
    /// torch gives them any stride. The extents' product must be known to fit into Int.
    var isContiguous: Bool {
        if dimensions.contains(0) { return true }
        var expected = 1
        for (extent, stride) in zip(dimensions, strides).reversed() where extent != 1 {
            if stride != expected { return false }
            expected *= extent
        }
        return true
    }
}
