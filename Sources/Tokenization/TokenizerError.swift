public import SystemPackage

/// Why a tokenizer cannot be read from its files.
///
/// `description` is a sentence for the user: the file, the entry or line at fault, and what to do about it.
public struct TokenizerError: Error, Sendable, Equatable, CustomStringConvertible {
    public enum Code: Sendable, Equatable {
        /// The folder, or a file that it must have, is not there.
        case fileMissing
        /// The file is there and cannot be read, or is not UTF-8.
        case fileUnreadable
        /// The file is not JSON, or lacks a field, or has one of another type.
        case invalidJSON
        /// A tokenizer of another kind than byte-level BPE.
        case unsupportedTokenizer
        /// Ids that are negative, too large or given twice, or a byte without a token.
        case invalidVocabulary
        /// A merge that is not two symbols, or that names a token outside the vocabulary.
        case invalidMerge
        /// The vocabulary lacks a token with a role, such as `</s>`.
        case specialTokenMissing
    }

    public let code: Code
    public let file: FilePath
    public let description: String

    init(_ code: Code, file: FilePath, _ description: String) {
        self.code = code
        self.file = file
        self.description = description
    }
}
