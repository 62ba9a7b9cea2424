import SystemPackage

/// `model.safetensors.index.json` or `pytorch_model.bin.index.json`: which file of the folder holds which
/// tensor.
public struct ShardIndex {
    /// A tensor's name and its file, in the order of the index.
    let entries: [(tensor: String, shard: String, byteOffset: Int)]
    let path: FilePath

    init(_ path: FilePath) throws(CheckpointError) {
        let file = try MappedFile(path)
        let document = try JSONDocument(try file.bytes(0..<file.byteCount), fileOffset: 0, file: path)
        guard let map = document["weight_map"]?.members else {
            throw CheckpointError(
                .malformed, file: path, byteOffset: 0,
                "The index has no \"weight_map\" from tensors to files. Download it again.")
        }
        var entries: [(tensor: String, shard: String, byteOffset: Int)] = []
        for member in map {
            guard let shard = member.value.string, !shard.isEmpty, !shard.contains("/"), shard != "..",
                shard != "."
            else {
                throw CheckpointError(
                    .malformed, file: path, tensor: member.key, byteOffset: member.value.byteOffset,
                    "The index does not name a file beside it for this tensor. Download it again.")
            }
            entries.append((member.key, shard, member.byteOffset))
        }
        self.entries = entries
        self.path = path
    }

    /// Opens each shard once and takes the tensors that the index names.
    ///
    /// The index is the authority: a tensor that it does not name is not there.
    func tensors(
        opening open: (FilePath) throws(CheckpointError) -> [StoredTensor]
    ) throws(CheckpointError) -> (tensors: [StoredTensor], shardCount: Int) {
        var shards: [String: [String: StoredTensor]] = [:]
        var found: [StoredTensor] = []
        for (name, shard, byteOffset) in entries {
            if shards[shard] == nil {
                shards[shard] = try contents(of: shard, naming: name, byteOffset: byteOffset, opening: open)
            }
            guard let tensor = shards[shard]?[name] else {
                throw CheckpointError(
                    .missingTensor, file: path, tensor: name, byteOffset: byteOffset,
                    "The index says that the tensor is in \(shard), and it is not. Download both again: they "
                        + "may belong to different versions of the model.")
            }
            found.append(tensor)
        }
        return (found, shards.count)
    }

    private func contents(
        of shard: String, naming name: String, byteOffset: Int,
        opening open: (FilePath) throws(CheckpointError) -> [StoredTensor]
    ) throws(CheckpointError) -> [String: StoredTensor] {
        do {
            let tensors = try open(path.removingLastComponent().appending(shard))
            return Dictionary(uniqueKeysWithValues: tensors.map { ($0.specification.name, $0) })
        } catch  where error.code == .missingFile {
            throw CheckpointError(
                .missingFile, file: path, tensor: name, byteOffset: byteOffset,
                "The index names the file \(shard), which is not in the folder. Download it as well.")
        }
    }
}

extension ShardIndex {
    /// The text of an index.
    ///
    /// - Parameter shards: each file's name, and the names of its tensors, without quotes and backslashes.
    public static func text(_ shards: [(file: String, tensors: [String])], byteCount: Int) -> String {
        let lines = shards.flatMap { shard in shard.tensors.map { "    \"\($0)\": \"\(shard.file)\"" } }
        return """
            {
              "metadata": {"total_size": \(byteCount)},
              "weight_map": {
            \(lines.sorted().joined(separator: ",\n"))
              }
            }

            """
    }
}
