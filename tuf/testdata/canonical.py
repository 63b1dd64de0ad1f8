# Reads JSON texts, a line of hexadecimal digits each, and answers each one with
# a line: the canonical form by securesystemslib and, where the text is a key of
# the Notary dialect, its id; or why a strict reader has to refuse the text.
import hashlib, json, sys

from securesystemslib.formats import encode_canonical


class Refused(Exception):
    pass


def refuse(why):
    def fail(*_):
        raise Refused(why)
    return fail


def members(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Refused("a member twice")
    return dict(pairs)


def integer(text):
    if text == "-0":
        raise Refused("minus zero")
    if len(text) > 17 or abs(int(text)) > 1 << 53:
        raise Refused("a large number")
    return int(text)


def depth(v):
    if isinstance(v, dict):
        return 1 + max(map(depth, v.values()), default=0)
    if isinstance(v, list):
        return 1 + max(map(depth, v), default=0)
    return 0


def answer(raw):
    try:
        text = raw.decode("utf-8")
        if text.startswith("\ufeff"):
            raise Refused("a byte order mark")
        v = json.loads(text, object_pairs_hook=members, parse_int=integer,
                       parse_float=refuse("a fraction"), parse_constant=refuse("not a number"))
        if depth(v) > 64:
            raise Refused("too deep")
        canonical = encode_canonical(v).encode("utf-8")
    except UnicodeError:
        return "refused: not UTF-8"
    except json.JSONDecodeError:
        return "refused: not JSON"
    except RecursionError:
        return "refused: too deep"
    except Refused as e:
        return "refused: %s" % e
    key = "-"
    if isinstance(v, dict) and set(v) == {"keytype", "keyval"} and isinstance(v["keyval"], dict) and "public" in v["keyval"]:
        same = {"keytype": v["keytype"], "keyval": {"private": None, "public": v["keyval"]["public"]}}
        key = hashlib.sha256(encode_canonical(same).encode("utf-8")).hexdigest()
    return "ok %s %s" % (canonical.hex(), key)


for line in sys.stdin:
    print(answer(bytes.fromhex(line.strip())), flush=True)
