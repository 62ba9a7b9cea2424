import SystemPackage

/// What tokenizer_config.json, special_tokens_map.json and added_tokens.json say, each where it is present.
struct SpecialTokenFiles {
    /// The tokens with a role, by the role's name, such as `bos_token`.
    private(set) var roles: [String: AddedTokenEntry] = [:]
    private(set) var additionalSpecialTokens: [AddedTokenEntry] = []
    /// Added tokens with their ids.
    private(set) var addedTokens: [(entry: AddedTokenEntry, id: Int, file: FilePath)] = []
    private(set) var addsPrefixSpace: Bool?
    /// The file that gave each role.
    private(set) var filesOfRoles: [String: FilePath] = [:]

    init(folder: FilePath) throws(TokenizerError) {
        // The configuration comes first, and wins: the map is the older file, kept for old readers.
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let file = TokenizerFile(name, in: folder)
            guard let content = try file.decodeIfPresent(Content.self) else { continue }
            for (role, token) in content.roles where roles[role] == nil {
                roles[role] = token
                filesOfRoles[role] = file.path
            }
            additionalSpecialTokens += content.additionalSpecialTokens
            addsPrefixSpace = addsPrefixSpace ?? content.addsPrefixSpace
            for (key, entry) in content.addedTokens.sorted(by: { $0.key < $1.key }) {
                guard let id = Int(key) else {
                    throw TokenizerError(
                        .invalidVocabulary, file: file.path,
                        "\(file.path): in added_tokens_decoder, '\(key)' is not an id. Mend the entry.")
                }
                addedTokens.append((entry, id, file.path))
            }
        }
        let file = TokenizerFile("added_tokens.json", in: folder)
        let ids = try file.decodeIfPresent([String: Int].self) ?? [:]
        for (content, id) in ids.sorted(by: { $0.value < $1.value }) {
            addedTokens.append((AddedTokenEntry(content: content), id, file.path))
        }
    }
}

extension SpecialTokenFiles {
    /// The fields that tokenizer_config.json and special_tokens_map.json share, and the former's own.
    private struct Content: Decodable {
        var roles: [String: AddedTokenEntry] = [:]
        var additionalSpecialTokens: [AddedTokenEntry]
        var addedTokens: [String: AddedTokenEntry]
        var addsPrefixSpace: Bool?

        private enum Key: String, CodingKey {
            case bos_token, eos_token, pad_token, unk_token, sep_token, cls_token, mask_token
            case additional_special_tokens, added_tokens_decoder, add_prefix_space
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Key.self)
            for key in [
                Key.bos_token, .eos_token, .pad_token, .unk_token, .sep_token, .cls_token, .mask_token,
            ] {
                roles[key.rawValue] = try container.decodeIfPresent(AddedTokenEntry.self, forKey: key)
            }
            additionalSpecialTokens =
                try container.decodeIfPresent([AddedTokenEntry].self, forKey: .additional_special_tokens)
                ?? []
            addedTokens =
                try container.decodeIfPresent([String: AddedTokenEntry].self, forKey: .added_tokens_decoder)
                ?? [:]
            addsPrefixSpace = try container.decodeIfPresent(Bool.self, forKey: .add_prefix_space)
        }
    }
}
