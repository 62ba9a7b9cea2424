#!/usr/bin/env python3
"""Writes Sources/Tokenization/CompatibilityMappings.swift: Unicode's compatibility decompositions.

The mappings are asked of Hugging Face's `tokenizers` (pip install tokenizers), whose normalizer Tandem has
to match, and not of Python's own tables, which are as old as the Python.
"""

import pathlib
import textwrap
import unicodedata

from tokenizers import normalizers

HEADER = '''\
// Written by Scripts/make-compatibility-mappings.py; change it there.

extension CompatibilityNormalizer {
    /// Entries `first,count,expansion`, in hexadecimal, with the expansion's scalars joined by `.`: `count`
    /// characters from `first` on expand to one scalar each, `expansion` and its successors. A count of 1 is
    /// left out.
    static let mappingText = """
'''


def main():
    nfkd, nfd = normalizers.NFKD(), normalizers.NFD()
    runs = []
    for value in range(0x110000):
        if 0xD800 <= value < 0xE000:
            continue
        expansion = nfkd.normalize_str(chr(value))
        # Swift's composition takes U+0F73, U+0F75 and U+0F81 for starters even where they follow a mark of
        # their own kind, and orders their parts wrongly; it is handed the parts instead.
        hides_marks = unicodedata.combining(expansion[0]) and not unicodedata.combining(chr(value))
        if expansion == nfd.normalize_str(chr(value)) and not hides_marks:
            continue
        if runs:
            first, count, start = runs[-1]
            continues = len(expansion) == len(start) == 1 and ord(expansion) == ord(start) + count
            if first + count == value and continues:
                runs[-1] = (first, count + 1, start)
                continue
        runs.append((value, 1, expansion))
    entries = []
    for first, count, expansion in runs:
        scalars = ".".join(f"{ord(character):x}" for character in expansion)
        entries.append(f"{first:x},{count:x},{scalars}" if count > 1 else f"{first:x},{scalars}")
    text = textwrap.indent(textwrap.fill(" ".join(entries), 100, break_on_hyphens=False), "        ")
    path = pathlib.Path(__file__).parent.parent / "Sources/Tokenization/CompatibilityMappings.swift"
    path.write_text(HEADER + text + '\n        """\n}\n')


if __name__ == "__main__":
    main()
