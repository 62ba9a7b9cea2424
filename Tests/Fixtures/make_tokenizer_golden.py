"""Writes Tokenizer/: three small tokenizers, and the ids that Hugging Face's `tokenizers` gives for texts.

    pip install tokenizers
    python Tests/Fixtures/make_tokenizer_golden.py [FOLDER WITH OPT'S vocab.json AND merges.txt]

Without the folder, the ids for OPT's vocabulary are kept as they are in golden.json.
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent / "Tokenizer"

CORPUS = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do:
once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations
in it, "and what is the use of a book," thought Alice "without pictures or conversations?" So she was
considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid),
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the
daisies, when suddenly a White Rabbit with pink eyes ran close by her. It's, I'll, we've, they're, I'd, I'm,
don't: 1 12 123 1984 2026.
    for (int i = 0; i < count; i++) { total += values[i] * 2; }  // 10% == 0.1
def main(arguments):\n\treturn [argument for argument in arguments if argument != ""]
日本語の文章。日本の言語。 Ça va déjà, là-bas? Äpfel. 👩‍👩‍👧 👍🏽 👍 aaaaaaaaaaaaaaaa
"""

TEXTS = [
    "",
    " ",
    "Hello world",
    "Paris is the capital city of",
    "The rabbit's sister isn't here; we've seen they'll come, I'd say I'm sure you're right.",
    "THE RABBIT'S SISTER ISN'T HERE; WE'VE SEEN THEY'LL COME, I'D SAY I'M SURE YOU'RE RIGHT.",
    "'s 't 're 've 'm 'll 'd 'r 'v 'l 'x ''s '",
    "for (int i = 0; i < count; i++) {\n    total += values[i] * 2;\n}\n\n\n// 10%\n",
    "def f(x):\n\treturn x ** 2 if x != -1 else None\r\n\r\n",
    "a  b   c    d     e",
    "  leading and trailing  ",
    "\n\n \n\t \t\n  x\n ",
    "tab\tverticaltab\x0bformfeed\x0cnextline\x85end",
    "no-break\u00a0space, \u00a0\u00a0two, ideographic\u3000space, line\u2028separator",
    "zero\u200bwidth, bom\ufeff",
    "control\x00\x01\x1b[0m\x7f\x80\x9f\x1c\x1d\x1e\x1f",
    "1 12 123 1234567890 3.14 1,000 ½ Ⅻ ² ①",
    "٠١٢٣ ०१२३ ௧௨௩ 一二三 𝟘𝟙 abc٣def",
    "日本語の文章。東京 12 月、漢字とカタカナ。한국어 문장입니다. 汉字",
    "👍 👍🏽 👩‍👩‍👧 🇩🇪🇫🇷 🏳️‍🌈 1️⃣ ❤️ 🤷🏼‍♀️x",
    "e\u0301 é a\u0300\u0323 n\u0303o \u0301alone ᾳ̈́ q̣̇",
    "marks out of order: a\u0301\u0323 \u0f73\u0f73 b\u05c1\U0001133b c\U00010f4e\u05b6",
    "composed anew: d\u0344 \u1100\u1161\u11a8 e\u0327\u0301",
    "हिन्दी में लिखा हुआ، العربية، עִבְרִית, ไทย, Ελληνικά, Русский, ქართული, አማርኛ",
    "ﬁ ﬀ Å Å ｆｕｌｌ　ｗｉｄｔｈ ℌ ㎏ … ™ ½ ſ ǆ 각 각 각 ﷺ ؀",
    "</s>begin</s> middle <pad>end</s></s>",
    "</s> </S> < /s> <s> <unk> <mask> <pad",
    "[START_REF]Alice[END_REF] [START_REF] x [END_REF]  y",
    "word wordy sword word, unword word",
    "((())) [[]] {} ...!!!??? --- == === a.b.c 'quoted' \"double\" ~~~ @@@ $$ `code`",
    "one SPL1T-TH1S-Pl3A5ESPL1T-TH1S-Pl3A5E two12SPL1T-TH1S-Pl3A5E34",
    "newer than the reference: \U0002b73a \u1c89 \U000105c0 \U0001e6c0 \ua7ce",
    "private \ue000 \U000f0000, unassigned \u0378, not a character \ufffe \U0010ffff, replacement \ufffd",
    "a" * 100,
    "Alice" * 30 + " " + "-" * 70 + " " + "=" * 33,
    "x" + " " * 60 + "y" + "\n" * 50 + "z",
]

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    return tokenizer


def from_vocabulary_files(folder, special=("</s>", "<pad>")):
    """A folder with vocab.json and merges.txt alone, as OPT's own tokenizer class reads it."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def with_prefix_space(model):
    """Added tokens with every flag, and a space put in front."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens(
        [
            AddedToken("[START_REF]", lstrip=True),
            AddedToken("[END_REF]", rstrip=True),
            AddedToken("[END_REF] y"),
            AddedToken("word", single_word=True),
        ]
    )
    return tokenizer


def like_galactica(model):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("SPL1T-TH1S-Pl3A5E", "removed"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(
                Regex(r"""[\(\)\[\]\{\}]|([!"\#\$%\&'\*\+,\-\./:;<=>\?\\\^_`\|\~])\1*"""), "isolated"
            ),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_special_tokens([AddedToken("[START_REF]", normalized=False)])
    return tokenizer


def encoded(tokenizer):
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]


def main():
    trained = train()
    files = HERE / "vocabulary-files"
    files.mkdir(parents=True, exist_ok=True)
    trained.model.save(str(files))
    tokenizers = {"vocabulary-files": from_vocabulary_files(files)}
    for name, make in {"prefix-space": with_prefix_space, "galactica": like_galactica}.items():
        tokenizer = make(models.BPE.from_file(str(files / "vocab.json"), str(files / "merges.txt")))
        (HERE / name).mkdir(exist_ok=True)
        tokenizer.save(str(HERE / name / "tokenizer.json"), pretty=False)
        tokenizers[name] = Tokenizer.from_file(str(HERE / name / "tokenizer.json"))
    golden = HERE / "golden.json"
    ids = {name: encoded(tokenizer) for name, tokenizer in tokenizers.items()}
    if len(sys.argv) > 1:
        opt = from_vocabulary_files(pathlib.Path(sys.argv[1]))
        ids["opt"] = encoded(opt)
    else:
        ids["opt"] = json.loads(golden.read_text())["ids"]["opt"]
    texts = ",\n".join(f"    {json.dumps(text)}" for text in TEXTS)
    lists = ",\n".join(f'    "{name}": {json.dumps(ids[name], separators=(",", ":"))}' for name in ids)
    golden.write_text(f'{{\n  "texts": [\n{texts}\n  ],\n  "ids": {{\n{lists}\n  }}\n}}\n')


if __name__ == "__main__":
    main()
