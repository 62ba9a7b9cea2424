/// The byte-level BPE tokenizer of GPT-2, as OPT and Galactica use it.
///
/// Gives the ids that Hugging Face's tokenizers give. Any text has ids: what the vocabulary has no
/// word for is spelled in bytes. OPT's ids decode to the same text; Galactica's to its normalized form.
public struct Tokenizer: Sendable {
    /// The id put in front of a prompt: `</s>`, 2 in OPT.
    public let beginOfSequence: Int32
    /// The id after which a text is over: `</s>`, 2 in OPT.
    public let endOfSequence: Int32
    /// The id that fills short sequences of a batch: `<pad>`, 1 in OPT.
    public let padding: Int32

    let vocabulary: Vocabulary
    let mergeTable: MergeTable
    let preTokenizer: PreTokenizer
    /// Added tokens that are looked for in the text as it is.
    let addedTokens: AddedTokenMatcher
    /// Galactica normalizes text; OPT takes it as it is.
    let normalizer: CompatibilityNormalizer?
    /// Added tokens that are looked for in the normalized text, after the others.
    let normalizedAddedTokens: AddedTokenMatcher

    /// The highest id and one: the rows that an embedding needs. OPT's 50265 are padded to 50272 in its
    /// checkpoints.
    public var vocabularyCount: Int { vocabulary.count }
}
