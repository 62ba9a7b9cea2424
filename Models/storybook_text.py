"""The text the storybook model is trained on: books as chapters of plain paragraphs, and their tokenizer.

    python Models/storybook_text.py --books FOLDER     # prints what the cleaning made of each book

A book becomes chapters, a chapter becomes paragraphs on one line each: hard line breaks inside a
paragraph go, headings, tables of contents, verse and footnotes go, quotes become the plain ones of a
keyboard (and single-quoted speech double-quoted), so that a prompt typed at a prompt looks like the text.
"""

import argparse
import json
import pathlib
import re

import tokenizers
import transformers

VOCABULARY = 4096
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as OPT's

# Books that put speech in single quotes.
SINGLE_QUOTED = ("alice-s-adventures-in-wonderland", "grimms-fairy-tales")

# The last chapter of each of these is held out: DEVELOPMENT to choose weights by, TEST to report.
DEVELOPMENT = ("anne-of-green-gables", "the-adventures-of-tom-sawyer", "little-women", "peter-pan")
TEST = ("the-secret-garden", "treasure-island", "the-wind-in-the-willows", "andersen-s-fairy-tales",
        "pride-and-prejudice", "alice-s-adventures-in-wonderland")  # fmt: skip
HELD_OUT_CHARACTERS = (6_000, 30_000)


def clean_quotes(text, single_quoted):
    """Typographic quotes and dashes → the ones on a keyboard."""
    if single_quoted:
        text = text.replace("“", "'").replace("”", "'").replace("‘", '"')
        # A closing mark stands after punctuation and before a space or a dash; all others are apostrophes.
        text = re.sub(r"(?<=[.,!?;:)\-])’(?=\s|--|$|[)\]])", '"', text)
    text = text.replace("“", '"').replace("”", '"').replace("‘", "'").replace("’", "'")
    return text.replace("—", "--").replace("`", "'")


def is_heading(paragraph):
    """Titles and chapter headings: short, and not ended as a sentence is."""
    if re.match(r"(CHAPTER|Chapter|ADVENTURE|PART|BOOK|Part) +[\dIVXLC]+\b", paragraph):
        return True
    letters = [c for c in paragraph if c.isalpha()]
    if not letters or (len(paragraph) < 120 and all(c.isupper() for c in letters)):
        return True
    return len(paragraph) < 70 and not re.search(r"[.,!?;:\-)'\"]$", paragraph)


def clean_paragraph(lines):
    """One line for a paragraph of prose, or None for verse, tables and notes."""
    indented = sum(line.startswith("  ") for line in lines)
    if indented > 1 or (indented == 1 and len(lines) > 1):
        return None
    paragraph = re.sub(r"\s+", " ", " ".join(lines)).strip()
    paragraph = re.sub(r"\(\d+\)|\[\d+\]", "", paragraph)
    paragraph = paragraph.replace("_", "").replace("*", "").replace("|", "").strip()
    if re.match(r"[\[(]|\d+[. ]", paragraph) or "Gutenberg" in paragraph:
        return None
    return paragraph or None


def read_book(path):
    """A book's chapters, each a list of paragraphs."""
    text = path.read_text(encoding="utf-8").replace("\r", "")
    text = re.split(r"\n(?:End of (?:the |The )?Project Gutenberg|\s*THE END\s*\n)", text)[0]
    text = clean_quotes(text, path.stem in SINGLE_QUOTED)
    chapters = [[]]
    for block in re.split(r"\n\s*\n", text):
        paragraph = clean_paragraph([line for line in block.split("\n") if line.strip()])
        if paragraph is None:
            continue
        if is_heading(paragraph):
            if chapters[-1]:
                chapters.append([])
        else:
            chapters[-1].append(paragraph)
    for chapter in filter(None, chapters):  # "THE next morning": a chapter's first words in capitals
        chapter[0] = re.sub(r"^[A-Z]{2,}\b", lambda match: match[0].capitalize(), chapter[0])
    # What is short stands before or between chapters: contents, dedications, mottoes.
    return [chapter for chapter in chapters if sum(map(len, chapter)) > 1500]


def read_books(folder):
    """Chapters for training, development and test, each one string of paragraphs, one a line."""
    training, development, test = [], [], []
    for path in sorted(pathlib.Path(folder).glob("*.txt")):
        chapters = ["\n".join(chapter) for chapter in read_book(path)]
        held_out = None
        if path.stem in DEVELOPMENT + TEST:
            low, high = HELD_OUT_CHARACTERS
            held_out = max(i for i, chapter in enumerate(chapters) if low <= len(chapter) <= high)
            (development if path.stem in DEVELOPMENT else test).append(chapters[held_out])
        training += [chapter for i, chapter in enumerate(chapters) if i != held_out]
    return training, development, test


def train_tokenizer(chapters, folder):
    """A byte-level BPE as OPT's, in the files that OPT's tokenizer is published in."""
    bpe = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    bpe.train_from_iterator(chapters, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL_TOKENS)
    bpe.save_model(str(folder))
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    tokenizer = transformers.GPT2TokenizerFast(
        tokenizer_object=bpe._tokenizer, add_bos_token=True, model_max_length=2048, **names
    )
    tokenizer.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--books", required=True)
    folder = pathlib.Path(parser.parse_args().books)
    for path in sorted(folder.glob("*.txt")):
        chapters = read_book(path)
        kept = sum(len(p) + 1 for chapter in chapters for p in chapter)
        print(f"{path.stem}: {len(chapters)} chapters, {kept} of {path.stat().st_size} bytes; begins {chapters[0][0][:70]!r}")
    training, development, test = read_books(folder)
    for name, part in ("training", training), ("development", development), ("test", test):
        print(f"{name}: {len(part)} chapters, {sum(map(len, part))} characters")


if __name__ == "__main__":
    main()
