/// The parts of a Hugging Face `tokenizer.json` that decide ids.
///
/// `post_processor` is not among them: Tandem puts the one `</s>` in front by its own rule, whether or not
/// the file would. Nor are `truncation`, `padding` and `decoder`, which a byte-level tokenizer leaves no
/// choice about.
struct TokenizerJSON: Decodable {
    var model: Model
    var addedTokens: [AddedTokenEntry]?
    var normalizer: Stage?
    var preTokenizer: Stage?

    private enum CodingKeys: String, CodingKey {
        case model
        case addedTokens = "added_tokens"
        case normalizer
        case preTokenizer = "pre_tokenizer"
    }

    struct Model: Decodable {
        /// Absent in files of the first versions.
        var type: String?
        var vocabulary: [String: Int]?
        var merges: [MergeEntry] = []
        /// The options that change ids and that this tokenizer does not have, where they are switched on.
        var unsupportedOptions: [String] = []

        private enum Key: String, CodingKey {
            case type, vocab, merges, dropout, continuing_subword_prefix, end_of_word_suffix
            case byte_fallback, ignore_merges
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Key.self)
            type = try container.decodeIfPresent(String.self, forKey: .type)
            // Another model's fields have other types; `type` is what the error is to be about.
            guard type == nil || type == "BPE" else { return }
            vocabulary = try container.decode([String: Int].self, forKey: .vocab)
            // A whole array of one kind or the other: trying each element would throw 50,000 times.
            if let lines = try? container.decode([String].self, forKey: .merges) {
                merges = lines.map(MergeEntry.line)
            } else {
                merges = try container.decode([[String]].self, forKey: .merges).map(MergeEntry.symbols)
            }
            let dropout = try container.decodeIfPresent(Double.self, forKey: .dropout)
            if let dropout, dropout != 0 { unsupportedOptions.append("dropout") }
            for key in [Key.continuing_subword_prefix, .end_of_word_suffix] {
                let affix = try container.decodeIfPresent(String.self, forKey: key)
                if let affix, !affix.isEmpty { unsupportedOptions.append(key.rawValue) }
            }
            for key in [Key.byte_fallback, .ignore_merges] {
                let isOn = try container.decodeIfPresent(Bool.self, forKey: key)
                if isOn == true { unsupportedOptions.append(key.rawValue) }
            }
        }
    }

    /// A merge, as files before and since tokenizers 0.20 write it.
    enum MergeEntry {
        case line(String)
        case symbols([String])
    }

    /// A normalizer or pre-tokenizer: one, or a `Sequence` of them.
    struct Stage: Decodable {
        var type: String
        var addsPrefixSpace: Bool?
        var usesRegex: Bool?
        var individualDigits: Bool?
        var behavior: String?
        var invert: Bool?
        var pattern: Pattern?
        var stages: [Stage]?

        struct Pattern: Decodable {
            var String: Swift.String?
            var Regex: Swift.String?
        }

        private enum Key: String, CodingKey {
            case type, add_prefix_space, use_regex, individual_digits, behavior, invert, pattern
            case pretokenizers, normalizers
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Key.self)
            type = try container.decode(Swift.String.self, forKey: .type)
            addsPrefixSpace = try container.decodeIfPresent(Bool.self, forKey: .add_prefix_space)
            usesRegex = try container.decodeIfPresent(Bool.self, forKey: .use_regex)
            individualDigits = try container.decodeIfPresent(Bool.self, forKey: .individual_digits)
            behavior = try container.decodeIfPresent(Swift.String.self, forKey: .behavior)
            invert = try container.decodeIfPresent(Bool.self, forKey: .invert)
            // Normalizers have patterns too, of other forms; those stages are refused by their type.
            pattern = try? container.decodeIfPresent(Pattern.self, forKey: .pattern)
            stages =
                try container.decodeIfPresent([Stage].self, forKey: .pretokenizers)
                ?? container.decodeIfPresent([Stage].self, forKey: .normalizers)
        }

        /// The stages one after another, sequences within sequences undone.
        var flattened: [Stage] {
            type == "Sequence" ? (stages ?? []).flatMap(\.flattened) : [self]
        }
    }
}
