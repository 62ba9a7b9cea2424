import Checkpoints
import FoundationEssentials
import OPTModel
import SystemPackage

/// Which model to load, and where its weights come from.
public enum ModelReference: Sendable, Hashable {
    /// A folder with config.json, the weights and the tokenizer.
    case folder(FilePath)
    /// Weights in one folder, configuration and tokenizer in another, as FlexGen's converted folders need it.
    case weights(FilePath, configurationFolder: FilePath)
    /// Random weights, made in memory; no tokenizer.
    case random(OPTConfiguration)
}

extension ModelReference {
    /// The model's sizes.
    public var configuration: OPTConfiguration {
        get throws {
            switch self {
            case .random(let configuration): configuration
            case .folder(let folder), .weights(_, configurationFolder: let folder):
                try OPTConfiguration(folder: folder)
            }
        }
    }

    /// The folder with the configuration and the tokenizer; nil for random weights.
    var configurationFolder: FilePath? {
        switch self {
        case .random: nil
        case .folder(let folder), .weights(_, configurationFolder: let folder): folder
        }
    }

    /// The weights.
    func source(randomWeightsSeed: UInt64) throws -> any TensorSource {
        let configuration = try configuration
        switch self {
        case .random:
            return DummyWeights(
                specifications: configuration.tensorSpecifications, seed: randomWeightsSeed)
        case .folder(let folder), .weights(let folder, configurationFolder: _):
            return try CheckpointFiles(folder: folder, quantization: configuration.quantization)
        }
    }

    public var isRandom: Bool {
        if case .random = self { true } else { false }
    }

    /// The path that stands for random weights.
    public static let randomWeightsPath = "_DUMMY_"
    /// The model that comes with Tandem.
    public static let bundledModelName = "storybook"

    /// Finds a model by name or folder.
    ///
    /// - Parameters:
    ///   - model: a folder, the name of a published model ("facebook/opt-1.3b"), or of a bundled one.
    ///   - path: FlexGen's weights folder, which holds `<name>-np/` or `<name>/`; `_DUMMY_` for random weights.
    ///   - downloadFolders: where downloads of Hugging Face models are kept (`models--facebook--opt-1.3b/…`).
    public init(model: String, path: String? = nil, downloadFolders: [FilePath] = []) throws {
        let name = model.split(separator: "/").last.map(String.init) ?? model
        if path == Self.randomWeightsPath {
            if let configuration = OPTConfiguration(publishedModel: model) {
                self = .random(configuration)
            } else if let folder = Self.modelFolder(model, name: name, downloadFolders) {
                self = .random(try OPTConfiguration(folder: folder))
            } else {
                throw Self.notFound(model, searched: downloadFolders)
            }
            return
        }
        let folder = Self.modelFolder(model, name: name, downloadFolders)
        guard let path else {
            guard let folder else { throw Self.notFound(model, searched: downloadFolders) }
            self = .folder(folder)
            return
        }
        let root = FilePath(path)
        let places = [root.appending(name), root.appending(name + "-np"), root]
        guard let weights = places.first(where: { Self.isFolder($0) && $0 != root || Self.hasWeights($0) })
        else {
            throw EngineError(
                .modelNotFound,
                "no weights of \(model) in \(path): neither \(name)/ nor \(name)-np/ nor weight files are there. "
                    + "Give the folder with --path, or --path \(Self.randomWeightsPath) for random weights")
        }
        if Self.isFile(weights.appending("config.json")) {
            self = .folder(weights)
        } else if let folder {
            self = .weights(weights, configurationFolder: folder)
        } else {
            throw EngineError(
                .modelNotFound,
                "\(weights) has no config.json, and no folder of \(model) was found to take it from; put the "
                    + "model's config.json and tokenizer files beside its weights")
        }
    }

    /// The folder of the model that comes with Tandem, found from the program's own place.
    public static func bundledModelFolder(_ name: String = bundledModelName) -> FilePath? {
        guard let executable = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        else { return nil }
        var folder = FilePath(executable)
        while folder.removeLastComponent() {
            // The package's own folder, an installation, and the build folder of a package that depends on it.
            for place in ["Models", "share/tandem/Models", "checkouts/tandem/Models"] {
                let candidate = folder.appending(place).appending(name)
                if isFile(candidate.appending("config.json")) { return candidate }
            }
        }
        return nil
    }

    private static func modelFolder(_ model: String, name: String, _ downloadFolders: [FilePath]) -> FilePath?
    {
        if isFolder(FilePath(model)) { return FilePath(model) }
        for downloads in downloadFolders {
            let snapshots = downloads.appending(
                "models--" + model.split(separator: "/").joined(separator: "--")
            ).appending("snapshots")
            let revisions = (try? FileManager.default.contentsOfDirectory(atPath: snapshots.string)) ?? []
            for revision in revisions.sorted()
            where isFile(snapshots.appending(revision).appending("config.json")) {
                return snapshots.appending(revision)
            }
        }
        return bundledModelFolder(name)
    }

    private static func notFound(_ model: String, searched: [FilePath]) -> EngineError {
        let places = ["\(model)/"] + searched.map(\.string)
        return EngineError(
            .modelNotFound,
            "the model \(model) was not found (looked in \(places.joined(separator: ", ")))",
            advice:
                "give the folder that holds its config.json with --model, or --path \(randomWeightsPath) with a "
                + "published OPT name such as facebook/opt-1.3b for random weights")
    }

    private static func hasWeights(_ folder: FilePath) -> Bool {
        [
            "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json", "decoder.embed_tokens.weight",
        ].contains { isFile(folder.appending($0)) }
    }

    private static func isFile(_ path: FilePath) -> Bool {
        var isDirectory = false
        return FileManager.default.fileExists(atPath: path.string, isDirectory: &isDirectory) && !isDirectory
    }

    private static func isFolder(_ path: FilePath) -> Bool {
        var isDirectory = false
        return FileManager.default.fileExists(atPath: path.string, isDirectory: &isDirectory) && isDirectory
    }
}
