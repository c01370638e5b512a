"""How Go writes and reads text: its quoting, its key folding and its repair of broken Unicode.

Ollama is a Go program, so its error texts and its idea of "the same key" are those of Go's
standard library.

Source: strconv.Quote, encoding/json (quoteChar, foldName, unquote), strings.TrimSpace.
"""

import re

SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's ``strings.TrimSpace`` removes; Python's ``strip`` also removes U+001C to U+001F."""

_SHORT_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f",
    "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip
_UNUSUAL = re.compile(r'["\\]|[^ -~]')
_FOLDS = {ord("\u017f"): "s", ord("\u212a"): "k"} | {
    ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
}
_HALF_PAIRS = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)


def quote(text: str) -> str:
    """Return ``text`` as Go's ``%q`` prints it, quotes included."""
    return f'"{_UNUSUAL.sub(_escaped, text)}"'


def quote_byte(byte: int) -> str:
    r"""Return a byte as a JSON syntax error of Go names it: ``'b'``, ``'\x00'``, ``'"'``."""
    if byte == ord('"'):
        return "'\"'"
    if byte == ord("'"):
        return r"'\''"
    return f"'{_UNUSUAL.sub(_escaped, chr(byte))}'"


def fold(key: str) -> str:
    """Return the form in which Go compares a JSON key with the names of a struct's fields.

    Letters outside ASCII keep their case, except the two that fold to ASCII ones: no field of
    ours contains another.
    """
    return key.lower() if key.isascii() else key.translate(_FOLDS)


def repair(json_text: bytes) -> str:
    r"""Return JSON text whose broken Unicode is replaced about as Go's decoder replaces it.

    Every lone ``\ud800`` escape and everything that is not UTF-8 becomes U+FFFD; of a character
    cut short Go makes one for each byte, this only one. Text that is not JSON stays so.
    """
    if b"\0" not in json_text:  # never in JSON, so it can mark the escapes that hide a "\\u"
        marked = json_text.replace(rb"\\", b"\\\0")
        json_text = _HALF_PAIRS.sub(rb"\\ufffd", marked).replace(b"\\\0", rb"\\")
    return json_text.decode("utf-8", "replace")


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    short = _SHORT_ESCAPES.get(char)
    if short is not None:
        return short
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
