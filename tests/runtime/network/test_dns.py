"""DNS messages in bytes."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_containers.runtime.network import dns

# A query for a.example A, IN, number 0x1267, recursion desired (RFC 1035, section 4).
HEADER = b"\x12\x67\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
QUERY = HEADER + b"\x01a\x07example\x00\x00\x01\x00\x01"
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"  # offers 1232 bytes (RFC 6891, section 6.1.2)

labels = st.text(alphabet="abcdefghijklmnopqrstuvwxyzABC0123456789-_", min_size=1, max_size=63)


def _with_name(wire: bytes) -> bytes:
    return HEADER + wire + b"\x00\x01\x00\x01"


def test_parse_reads_a_query() -> None:
    """Number, flags, name, type and class are those of the bytes."""
    question = dns.parse(QUERY)
    assert question is not None
    assert (question.identity, question.name, question.kind, question.kind_class) == (
        0x1267,
        "a.example",
        1,
        1,
    )
    assert question.is_standard
    assert question.labels == 2
    assert question.echo == QUERY[12:]
    assert (question.limit_bytes, question.extended) == (512, False)


def test_parse_keeps_the_spelling_for_the_answer() -> None:
    """The name is compared in lower case and echoed as it was sent (0x20 randomisation)."""
    question = dns.parse(_with_name(b"\x05ReDiS\x00"))
    assert question is not None
    assert question.name == "redis"
    assert b"\x05ReDiS\x00" in dns.answer(question, dns.NO_ERROR)


def test_parse_reads_how_much_the_client_takes() -> None:
    """An OPT record raises the limit, never below 512 bytes; TCP has its own."""
    extended = QUERY[:11] + b"\x01" + QUERY[12:] + OPT
    for message, stream, limit in ((extended, False, 1232), (QUERY, True, 65535)):
        question = dns.parse(message, stream=stream)
        assert question is not None
        assert question.limit_bytes == limit
    small = dns.parse(extended.replace(b"\x04\xd0", b"\x00\x10"))
    assert small is not None
    assert small.limit_bytes == 512


def test_parse_refuses_what_is_no_query() -> None:
    """Responses, no or several questions, pointers, endless and cut names are None."""
    for message in (
        b"",
        QUERY[:11],
        QUERY[:-1],
        QUERY[:2] + b"\x81" + QUERY[3:],
        QUERY[:5] + b"\x02" + QUERY[6:],
        QUERY[:5] + b"\x00" + QUERY[6:],
        _with_name(b"\xc0\x0c"),
        _with_name(b"\x40" + b"a" * 64 + b"\x00"),
        _with_name((b"\x3f" + b"a" * 63) * 4 + b"\x00"),
        HEADER + b"\x3fa",
    ):
        assert dns.parse(message) is None


def test_parse_does_not_take_a_dot_in_a_label_for_a_border() -> None:
    """A label may hold any byte: one with a dot is not two labels (RFC 2181, section 11)."""
    question = dns.parse(_with_name(b"\x07a.redis\x00"))
    assert question is not None
    assert question.name != "a.redis"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
@example(HEADER + b"\x00" * 4, False)
def test_parse_never_raises(message: bytes, stream: bool) -> None:
    """Any bytes are a question or none, and both have an answer that can be sent."""
    question = dns.parse(message, stream=stream)
    reply = dns.malformed(message) if question is None else dns.answer(question, dns.SERVER_FAILURE)
    assert reply == b"" or dns.identity(reply) == dns.identity(message)
    assert dns.answers(message, message) is False or message[2] & 0x80


@settings(max_examples=100, deadline=None)
@given(st.lists(labels, min_size=1, max_size=3), st.integers(0, 0xFFFF), st.integers(0, 60), st.booleans())
def test_answer_fits_and_says_so_when_it_does_not(
    parts: list[str], number: int, count: int, extended: bool
) -> None:
    """An answer keeps number and question, never passes the limit, and marks what was cut (TC)."""
    name = b"".join(bytes([len(part)]) + part.encode() for part in parts) + b"\0"
    query = dns.with_identity(_with_name(name), number)
    if extended:
        query = query[:11] + b"\x01" + query[12:] + OPT
    question = dns.parse(query)
    assert question is not None
    assert question.name == ".".join(parts).lower()
    reply = dns.answer(question, dns.NO_ERROR, [dns.address_record("10.64.0.2")] * count)
    kept = int.from_bytes(reply[6:8], "big")
    assert len(reply) <= question.limit_bytes
    assert dns.answers(reply, query)
    assert dns.identity(reply) == number
    assert bool(reply[2] & 0x02) == (kept < count)
    assert reply.endswith(OPT) == extended


def test_answer_echoes_recursion_and_says_it_is_authoritative() -> None:
    """RD is the client's, RA and AA are ours (RFC 1035, section 4.1.1)."""
    question = dns.parse(QUERY)
    assert question is not None
    assert dns.answer(question, dns.NAME_ERROR)[2:4] == b"\x85\x83"
    assert dns.answer(question, dns.SERVER_FAILURE, ours=False)[2:4] == b"\x81\x82"


def test_answer_records_have_no_lifetime() -> None:
    """TTL is zero: a container's address may be another's a moment later."""
    assert (
        dns.address_record("10.64.0.2") == b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x40\x00\x02"
    )
    assert dns.name_record("a.net").endswith(b"\x00\x07\x01a\x03net\x00")


def test_reverse_reads_an_address_backwards() -> None:
    """in-addr.arpa names an address from its end (RFC 1035, section 3.5)."""
    assert dns.reverse("2.0.64.10.in-addr.arpa") == "10.64.0.2"
    for name in (
        "in-addr.arpa",
        "0.64.10.in-addr.arpa",
        "x.0.64.10.in-addr.arpa",
        "300.0.64.10.in-addr.arpa",
        "a",
    ):
        assert dns.reverse(name) is None


def test_answers_takes_only_the_response_to_the_question() -> None:
    """Another question, or a query, is no answer; letter case may differ."""
    reply = QUERY[:2] + b"\x81\x80" + QUERY[4:]
    assert dns.answers(reply, QUERY)
    assert dns.answers(reply.replace(b"example", b"EXAMPLE"), QUERY)
    assert not dns.answers(reply.replace(b"example", b"exampla"), QUERY)
    assert not dns.answers(QUERY, QUERY)
    assert dns.answers(QUERY[:2] + b"\x81\x81" + bytes(8), QUERY), "FORMERR may come without the question"


def test_malformed_is_answered_with_its_number() -> None:
    """What cannot be read gets FORMERR with the number it came with; a response gets nothing."""
    broken = QUERY[:-1]
    assert dns.malformed(broken)[:2] == broken[:2]
    assert dns.rcode(dns.malformed(broken)) == dns.FORMAT_ERROR
    assert dns.malformed(broken[:2] + b"\x81" + broken[3:]) == b""
    assert dns.malformed(b"tiny") == b""
