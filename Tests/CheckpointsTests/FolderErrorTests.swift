import Checkpoints
import SystemPackage
import TensorCore
import Testing

struct FolderErrorTests {
    @Test func `says that a folder is missing`() throws {
        expectError(.missingFolder, "/no/such/folder") { _ = try CheckpointFiles(folder: "/no/such/folder") }
        let folder = try TemporaryFolder()
        try folder.write("file", "text")
        expectError(.missingFolder) { _ = try CheckpointFiles(folder: folder.path.appending("file")) }
    }

    @Test func `says that a folder holds no checkpoint`() throws {
        let folder = try TemporaryFolder()
        try folder.write("config.json", "{}")
        expectError(.missingCheckpoint, folder.path.string, "model.safetensors", "pytorch_model.bin") {
            _ = try CheckpointFiles(folder: folder.path)
        }
    }

    @Test func `names a missing tensor`() throws {
        let checkpoint = try CheckpointFiles(folder: Fixtures.folder.appending("safetensors-fp16"))
        let name = "decoder.layers.2.fc1.weight"
        #expect(checkpoint.specification(of: name) == nil)
        expectError(.missingTensor, tensor: name, "safetensors-fp16") {
            try checkpoint.require(name, shape: [28, 7])
        }
        expectError(.missingTensor, tensor: name) {
            _ = try readBlock(checkpoint, TensorBlock(name: name, rows: 0..<1, columns: 0..<1))
        }
    }

    @Test func `names file, found and expected shape of a tensor of the wrong shape`() throws {
        let checkpoint = try CheckpointFiles(folder: Fixtures.folder.appending("safetensors-fp16"))
        let name = "decoder.layers.1.fc1.weight"
        expectError(.wrongShape, tensor: name, "model.safetensors", "[28, 7]", "[32, 8]") {
            try checkpoint.require(name, shape: [32, 8])
        }
    }

    @Test(arguments: ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
    func `names the shard that an index names and the folder lacks`(index: String) throws {
        let folder = try TemporaryFolder()
        try folder.write(index, "{\"weight_map\": {\"decoder.a\": \"shard-1\"}}")
        expectError(.missingFile, tensor: "decoder.a", byteOffset: 16, index, "shard-1") {
            _ = try CheckpointFiles(folder: folder.path)
        }
    }

    @Test func `names the tensor that an index names and its shard lacks`() throws {
        let folder = try TemporaryFolder()
        try folder.write("shard-1", SafetensorsText([("a", "F16", [4], 0..<8)]).bytes(dataByteCount: 8))
        try folder.write(
            "model.safetensors.index.json", "{\"weight_map\": {\"a\": \"shard-1\", \"b\": \"shard-1\"}}")
        expectError(.missingTensor, tensor: "b", "index.json", "shard-1") {
            _ = try CheckpointFiles(folder: folder.path)
        }
    }

    @Test(arguments: [
        "{\"weight_map\": {\"a\": \"../shard\"}}", "{\"weight_map\": {\"a\": 1}}", "{\"weight_map\": []}",
        "{}", "",
    ])
    func `refuses an index that maps no tensors to files beside it`(text: String) throws {
        let folder = try TemporaryFolder()
        try folder.write("model.safetensors.index.json", text)
        expectError(.malformed, "index.json") { _ = try CheckpointFiles(folder: folder.path) }
    }
}
