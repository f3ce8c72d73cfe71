"""Nearly valid files: JSON trees of wrong shapes, texts with odd words, flipped and lost bytes."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]

# As JSON text, for Python cannot write all of them.
VALUES = (
    *("null", "true", "false", "-1", "0", "1", "2", "1.5", "NaN", "Infinity", "-Infinity"),
    *("1e400", "-0.0", "9223372036854775808", "-9223372036854775809", "1e308"),
    *('""', '" "', '"a"', '"1"', r'"\ud800"', r'"a\u0000b"', r'"\u2028"', r'"\u200b"'),
    *('"../x.png"', '"/x.png"', r'"C:\\x.png"', '"file:///x.png"', r'"\n"', '"no"'),
    *("[]", "{}", "[[]]", "[null]", "[{}]", '{"": null}', '{"a": []}', "[1, 2, 3, 4, 5]"),
    *("9" * 4301, '"' + "x" * 5000 + '"', "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500),
    "[" * 100_000 + "]" * 100_000,
)
WORDS = (
    *(b"", b"0", b"-1", b"-0", b"1", b"2", b"99", b"1.5", b"nan", b"inf", b"1e400", b"1_000"),
    *(b"9" * 4301, b"9223372036854775808", b"1:2:3", b"\xd9\xa3", b"\xc2\xb2"),  # other digits
    *(b"\xff", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xe2\x80\x8b"),
    *(b"\r", b"\n", b"\r\n", b"\x1c", b"\x85", b'"', b'""', b"'", b",", b";", b"\t", b":", b"="),
    *(b"..", b"../", b"/", b"\\", b"C:/", b"~", b"*", b"**", b"[", b"]", b"{", b"}", b"&a", b"*a"),
    b"#",
    *(b"<", b">", b"</", b"<!--", b"<![CDATA[", b"&#xD800;", b"&amp;", b"&x;", b"!!int", b"- "),
    *(b"image", b"present", b"labels", b"absent", b"null", b"True", b"x" * 5000, b"[" * 3000),
)  # fmt: skip
_TOKEN = re.compile(rb"\w+|\s+|[^\w\s]")
_RAW = "@raw@"


def json_tree(data: bytes, random: Random) -> bytes:
    """A JSON text with some of its values, keys or entries wrong."""
    tree = json.loads(data)
    for _ in range(random.randint(1, 3)):
        tree = _wrong_node(tree, random)
    text = json.dumps(tree)
    chosen = [random.choice(VALUES) for _ in range(text.count(_RAW))]
    return _with_values(text, chosen).encode()


def json_lines(data: bytes, random: Random) -> bytes:
    """JSON lines, one of which is wrong."""
    lines = data.splitlines()
    place = random.randrange(len(lines))
    lines[place] = json_tree(lines[place], random)
    return b"\n".join(lines) + b"\n"


def _with_values(text: str, values: list[str]) -> str:
    for value in values:
        text = text.replace(f'"{_RAW}"', value, 1)
    return text


def _wrong_node(tree: Any, random: Random) -> Any:
    """The tree with one node replaced, repeated, removed, renamed or wrapped."""
    places = list(_places(tree))
    if not places or random.random() < 0.03:
        return _RAW
    node, key = random.choice(places)
    act = random.randrange(6)
    if act == 0:
        del node[key]
    elif act == 1:
        node[key] = [node[key]]
    elif act == 2:
        other, place = random.choice(places)
        node[key] = deepcopy(other[place])
    elif act == 3 and isinstance(node, list):
        node.append(deepcopy(node[key]))
    elif act == 3:
        node[random.choice(("", "a", "\ud800", "image", "absent"))] = node.pop(key)
    else:
        node[key] = _RAW
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def words(data: bytes, random: Random) -> bytes:
    """A text with some words, signs or spaces replaced, repeated, moved or removed."""
    tokens = _TOKEN.findall(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(tokens) + 1)
        act = random.randrange(7)
        if act == 0:
            del tokens[place : place + random.randint(1, 3)]
        elif act == 1:
            tokens[place:place] = tokens[place : place + random.randint(1, 9)]
        elif act == 2:
            tokens[place : place + 1] = [random.choice(tokens or [b""])]
        elif act == 3:
            tokens.insert(place, random.choice(WORDS))
        elif act == 4:
            tokens[place:place] = [random.choice(tokens or [b""])] * random.choice((2, 50, 2000))
        else:
            tokens[place : place + 1] = [random.choice(WORDS)]
    return b"".join(tokens)


def bits(data: bytes, random: Random) -> bytes:
    """Bytes with some flipped, lost, repeated or overwritten by extreme numbers."""
    content = bytearray(data)
    for _ in range(random.randint(1, 3)):
        if not content:
            break
        place = random.randrange(len(content))
        act = random.randrange(6)
        if act == 0:
            content[place] ^= 1 << random.randrange(8)
        elif act == 1:
            content[place] = random.randrange(256)
        elif act == 2:
            del content[place:]
        elif act == 3:
            del content[place : place + random.randint(1, 64)]
        elif act == 4:
            content[place:place] = content[place : place + random.randint(1, 64)]
        else:
            number = random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1))
            content[place : place + 4] = struct.pack("<I", number)
    return bytes(content)


def cut(data: bytes, random: Random) -> bytes:
    """The beginning of a file."""
    return data[: random.randrange(len(data))]


def json_head(data: bytes, random: Random) -> bytes:
    """A safetensors file whose head, which is JSON after its length, is wrong."""
    length = int.from_bytes(data[:8], "little")
    head = json_tree(data[8 : 8 + length], random)
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def one_of(*ways: Damage) -> Damage:
    """Damage by one of several ways, the first more often than the others."""

    def damage(data: bytes, random: Random) -> bytes:
        return random.choice((*ways[:1] * 3, *ways))(data, random)

    return damage


as_json = one_of(json_tree, words, bits)
as_text = one_of(words, bits)
