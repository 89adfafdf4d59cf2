"""The special tokens, named once.

Each is the tuple of the names it has in published vocabularies. The first is what gets created
where a vocabulary has none of them, see `Tokenizer.extended`.
"""

# Before a text. Only published vocabularies have one apart from the end token.
START = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "_start_", "[CLS]")
# After a document, the likeliest first.
END = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
PAD = ("<pad>", "[PAD]", "<|pad|>")
UNKNOWN = ("[UNK]", "<unk>")  # of vocabularies in which some texts cannot be written
MASK = ("[MASK]", "<mask>")
# Between two sentences, and after the second: BERT's and RoBERTa's.
SEPARATOR = ("[SEP]", "</s>")
# Whose output classifies a text: BERT's and RoBERTa's before it, the first GPT's after it.
CLASSIFIER = ("[CLS]", "<s>")
EXTRACT = ("<extract>", "_classify_")
# Between the parts of a structured input, as by Radford et al. 2018, section 3.3.
DELIMITER = ("<delimiter>", "_delimiter_")
# What stands for the spans cut out of a text. The first to be used comes last and so has the
# highest id, as in the published vocabularies of Raffel et al. 2020.
SENTINELS = tuple((f"<extra_id_{i}>",) for i in reversed(range(100)))
