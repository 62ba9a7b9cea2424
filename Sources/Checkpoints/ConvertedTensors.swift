import SystemPackage
import TensorCore

/// The tensors of a folder that `tandem convert` wrote, by their canonical names: tiles of quantized matrices and all
/// others, each with the digests that its companion holds.
struct ConvertedTensors {
    var tiles: [String: StoredTensor] = [:]
    var others: [String: StoredTensor] = [:]

    init(_ tensors: [String: StoredTensor]) throws(CheckpointError) {
        // In order, so that of several faults the same one is told each time.
        for name in tensors.keys.sorted() where !name.hasSuffix(TensorSpecification.companionSuffix) {
            var tensor = tensors[name]!
            let companion = name + TensorSpecification.companionSuffix
            guard let digests = tensors[companion] else {
                throw CheckpointError(
                    .missingTensor, file: tensor.file.path, tensor: companion,
                    "The digests of \(name) are missing, without which it cannot be checked. "
                        + StoredTensor.advice)
            }
            tensor.digests = try digests.readDigests()
            if tensor.specification.scalarType == .uint8 {
                tiles[name] = tensor
            } else {
                try tensor.check(DigestUnits(tensor.specification))
                others[name] = tensor
            }
        }
    }
}

extension CheckpointError {
    /// The same for a file that cannot be downloaded again.
    var ofConvertedFolder: CheckpointError {
        CheckpointError(
            code, file: file, tensor: tensor, byteOffset: byteOffset,
            sentence + " As tandem convert wrote this folder, copy it again, or convert the model again.")
    }
}
