import FoundationEssentials
import SystemPackage

extension GenerationOptions {
    /// What a model's `generation_config.json` recommends; greedy where there is none.
    init(recommendedBy folder: FilePath) throws(EngineError) {
        self.init()
        let path = folder.appending("generation_config.json")
        guard let data = try? Data(contentsOf: URL(filePath: path.string)) else { return }
        guard let file = try? JSONDecoder().decode(ConfigurationFile.self, from: data) else {
            throw EngineError(
                .invalidOption, "\(path) is not a generation configuration; correct or remove the file")
        }
        guard file.do_sample ?? false else { return }
        temperature = file.temperature ?? 1
        topK = file.top_k ?? 0
        topP = file.top_p ?? 1
        repetitionPenalty = file.repetition_penalty ?? 1
        do {
            try validate()
        } catch {
            throw EngineError(.invalidOption, "\(path): \(error.description)")
        }
    }

    private struct ConfigurationFile: Decodable {
        var do_sample: Bool?
        var temperature: Float?
        var top_k: Int?
        var top_p: Float?
        var repetition_penalty: Float?
    }
}
