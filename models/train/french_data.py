# SPDX-License-Identifier: MIT
"""Sentences that hold a fact across a gap: "i grew up in france . <fillers> i speak fluent french ."

Fillers are short sentences over a small vocabulary. One in five names a rival country or language, so that the last
country seen is not the answer. The words of a filler sentence decide by a hash whether it belongs to training or to
testing: no filler sentence of the test occurs in training.
"""
import zlib

import numpy as np

PAIRS = dict(
    france="french", spain="spanish", germany="german", italy="italian", portugal="portuguese", sweden="swedish",
    norway="norwegian", denmark="danish", finland="finnish", poland="polish", greece="greek", turkey="turkish",
    russia="russian", china="chinese", japan="japanese", korea="korean", thailand="thai", vietnam="vietnamese",
    hungary="hungarian", romania="romanian", iceland="icelandic", ireland="irish", bulgaria="bulgarian", estonia="estonian")
COUNTRIES = list(PAIRS)
LANGUAGES = list(PAIRS.values())
WHO = ["we", "they", "my friends", "the children", "her parents", "our neighbours", "the old men", "two teachers"]
DID = ["liked", "watched", "bought", "painted", "lost", "found", "carried", "forgot"]
WHAT = ["a red boat", "the small garden", "some warm bread", "an old clock", "the long river", "green apples", "a quiet song",
        "the tall tree"]
WHEN = ["in the morning", "after dinner", "on sunday", "every summer", "at night", "last year", "before school", "in winter"]
WENT = ["visited", "talked about", "dreamed of", "wrote about"]
SHORT = [  # what comes next is settled by the words just before
    ("the clouds are in the", "sky"), ("the fish are in the", "sea"), ("the bees are on the", "flower"),
    ("the snow is on the", "mountain"), ("the ship is in the", "harbour")]
UNKNOWN = "<unk>"


def _words():
    words = [UNKNOWN, "."]
    texts = ["i grew up in", "i speak fluent", *WHO, *DID, *WHAT, *WHEN, *WENT, *COUNTRIES, *LANGUAGES, "learned some"]
    for text in texts + [a + " " + b for a, b in SHORT]:
        words += [w for w in text.split() if w not in words]
    return words


VOCABULARY = _words()
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def ids(text):
    return [IDS[word] for word in text.split()]


def is_test(sentence):
    return zlib.crc32(sentence.encode()) % 4 == 0


def filler(rng, test, rivals=True):
    """One filler sentence of the wanted half, as text."""
    while True:
        who, when = rng.choice(WHO), rng.choice(WHEN)
        if rivals and rng.random() < 0.2:
            if rng.random() < 0.5:
                text = f"{who} {rng.choice(WENT)} {rng.choice(COUNTRIES)} {when} ."
            else:
                text = f"{who} learned some {rng.choice(LANGUAGES)} {when} ."
        else:
            text = f"{who} {rng.choice(DID)} {rng.choice(WHAT)} {when} ."
        if is_test(text) == test:
            return text


def story(rng, gap, test=False, country=None):
    """(word ids up to and with "fluent", id of the answer); about `gap` words, and no fewer, between country and answer."""
    country = country or rng.choice(COUNTRIES)
    words = ids(f"i grew up in {country} .")
    start = len(words)
    while len(words) - start < gap - 3:
        words += ids(filler(rng, test))
    return words + ids("i speak fluent"), IDS[PAIRS[country]]


def batch(rng, size, gap):
    """A training batch of stories: ids [T, N], a mask of what is predicted, and a mask of what can be known for certain:
    the language, and the last word of a short-range sentence."""
    rows, ends = [], []
    for _ in range(size):
        words, answer = story(rng, gap)
        end_at = []
        if rng.random() < 0.5:  # a short-range sentence behind the first
            start, end = SHORT[rng.integers(len(SHORT))]
            words = words[:6] + ids(f"{start} {end} .") + words[6:]
            end_at = [6 + len(start.split()) - 1]
        ends.append(end_at)
        rows.append(words + [answer, IDS["."]])
    length = max(len(r) for r in rows)
    x = np.zeros((length, size), dtype=np.int64)
    weight = np.zeros((length - 1, size), dtype=np.float32)   # of the prediction of word t + 1
    answers = np.zeros((length - 1, size), dtype=np.float32)
    for n, row in enumerate(rows):
        x[: len(row), n] = row
        weight[: len(row) - 1, n] = 1
        answers[[len(row) - 3] + ends[n], n] = 1
    return x, weight, answers
