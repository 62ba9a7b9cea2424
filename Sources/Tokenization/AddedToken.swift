/// A token found in the text as it stands, before any merging: `</s>`, or Galactica's `[START_REF]`.
struct AddedToken: Sendable, Equatable {
    var content: String
    var id: Int32
    /// Whether decoding may leave it out.
    var isSpecial: Bool
    /// Whether it takes the white space before it along.
    var stripsLeft = false
    var stripsRight = false
    /// Whether it is matched only where no letter or digit touches it.
    var isWholeWord = false
    /// Whether it is matched after normalization: that is, after the tokens that are not.
    var isNormalized = false
}
