import Foundation
import SystemPackage
import Testing

/// A checkpoint and what transformers computes with it, as `Tests/Fixtures/make_golden.py` wrote them.
struct GoldenCase: Sendable, CustomTestStringConvertible {
    struct Prompt: Decodable, Sendable {
        var ids: [Int32]
        /// 64 greedy tokens.
        var tokens: [Int32]
    }

    let name: String
    /// The checkpoint's folder within the case, one for each format.
    let checkpoint: String
    let folder: FilePath
    let prompts: [Prompt]
    let steps: Int

    var testDescription: String { "\(name)/\(checkpoint)" }

    static let golden = FilePath(#filePath).removingLastComponent().removingLastComponent()
        .appending("Fixtures/Golden")

    /// Every case in every format.
    static let all: [GoldenCase] = {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: golden.string)) ?? []
        return names.sorted().flatMap { name -> [GoldenCase] in
            let folder = golden.appending(name)
            let file = try! JSONDecoder().decode(
                File.self, from: Data(contentsOf: URL(filePath: folder.appending("golden.json").string)))
            return file.checkpoints.map {
                let checkpoint = folder.pushing(FilePath($0.folder)).lexicallyNormalized()
                return GoldenCase(
                    name: name, checkpoint: $0.folder, folder: checkpoint, prompts: file.prompts,
                    steps: file.steps)
            }
        }
    }()

    /// The logits after prompt `index`, and those that chose its last token.
    func logits(_ index: Int) throws -> (first: [Float], last: [Float]) {
        let path = Self.golden.appending(name).appending("golden.safetensors")
        let data = try Data(contentsOf: URL(filePath: path.string))
        let headerCount = data.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
        let header = try JSONDecoder().decode([String: Entry].self, from: data[8..<8 + headerCount])
        func tensor(_ name: String) throws -> [Float] {
            let range = try #require(header[name]).data_offsets
            return data[(8 + headerCount + range[0])..<(8 + headerCount + range[1])].withUnsafeBytes {
                bytes in
                (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
            }
        }
        return (try tensor("logits.\(index)"), try tensor("logits.\(index).step\(steps - 1)"))
    }

    private struct File: Decodable {
        struct Checkpoint: Decodable { var folder: String }
        var steps: Int
        var checkpoints: [Checkpoint]
        var prompts: [Prompt]
    }

    private struct Entry: Decodable { var data_offsets: [Int] }
}

/// ‖a − b‖ / ‖b‖
func relativeError(_ a: [Float], _ b: [Float]) -> Double {
    precondition(a.count == b.count)
    let difference = zip(a, b).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
    let norm = b.reduce(0.0) { $0 + Double($1) * Double($1) }
    return (difference / norm).squareRoot()
}
