import FoundationEssentials
import Glibc
import OPTModel
import Placement
import SystemPackage

/// What was measured of a model on a text.
struct MeasuredLosses: Codable, Hashable {
    struct Entry: Codable, Hashable {
        var form: CompressionForm
        var loss: PerplexityLoss
    }

    /// Digests of what was measured, and on what.
    var model: String
    var text: String
    /// −log p of each token in fp16; of the same tokens a form's loss is surer than its perplexity.
    var reference: [Float] = []
    var losses: [Entry] = []

    /// Models and texts that a file holds: each has up to 5120 tokens, about 50 KB, all of which are read for any of them.
    static let mostRemembered = 16

    init(model: String, text: String) {
        self.model = model
        self.text = text
    }

    /// - Parameter text: nil for the text that was measured last.
    static func remembered(in file: FilePath, model: String, text: String?) -> MeasuredLosses? {
        RememberedLosses.plausible(in: file).measurements.last {
            $0.model == model && (text ?? $0.text) == $0.text
        }
    }

    /// Keeps what was measured, beside that of other models and texts, as the last; of all, the newest `mostRemembered`. A file
    /// that cannot be read is replaced.
    ///
    /// - Throws: where the file cannot be written.
    func remember(in file: FilePath) throws {
        var remembered = RememberedLosses.plausible(in: file)
        remembered.measurements.removeAll { $0.model == model && $0.text == text }
        remembered.measurements.append(self)
        remembered.measurements = remembered.measurements.suffix(Self.mostRemembered)
        try remembered.write(to: file)
    }

    var isPlausible: Bool {
        reference.allSatisfy(\.isFinite) && !reference.isEmpty && losses.allSatisfy { $0.loss.value > -1 }
    }
}

/// The file: a version, and what was measured, the last measurement last.
private struct RememberedLosses: RememberedFile {
    var version = Self.currentVersion
    var measurements: [MeasuredLosses] = []

    /// Another one where forms, how they round, or windows change.
    static let currentVersion = 1

    /// Without measurements that cannot be true.
    static func plausible(in file: FilePath) -> Self {
        var remembered = Self(readFrom: file)
        remembered.measurements.removeAll { !$0.isPlausible }
        return remembered
    }
}

/// Digits that are equal for equal contents, and hardly ever for others: 64 bits of FNV-1a.
struct ContentDigest: CustomStringConvertible {
    private var hash: UInt64 = 0xcbf2_9ce4_8422_2325

    init(_ text: String) { add(text) }

    mutating func add(_ text: String) {
        for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
    }

    var description: String {
        let digits = String(hash, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

extension ModelReference {
    /// A digest of the architecture and of the files' names, sizes and times of change: reading the weights would take as
    /// long as loading them. A model that is copied is another one.
    var contentDigest: String {
        get throws {
            var digest = ContentDigest(try configuration.digest)
            let folders: [FilePath]
            switch self {
            case .random: folders = []
            case .folder(let folder): folders = [folder]
            case .weights(let weights, let configurationFolder): folders = [weights, configurationFolder]
            }
            for folder in folders {
                for name in try FileManager.default.contentsOfDirectory(atPath: folder.string).sorted() {
                    // Of what a link leads to: downloads are links.
                    var status = stat()
                    guard stat(folder.appending(name).string, &status) == 0,
                        status.st_mode & S_IFMT == S_IFREG
                    else { continue }
                    digest.add(
                        "\(name)/\(status.st_size)/\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)/")
                }
            }
            return digest.description
        }
    }
}
