"""URLs of clusters: the servers that they name, and what is refused without being quoted."""

from __future__ import annotations

import pytest

from histstore import BackendConfigError
from histstore.wire.urls import parse_url


@pytest.mark.parametrize(
    ("url", "first", "seeds"),
    [
        ("redis://h:1/2", "redis://h:1/2", ()),
        ("redis+cluster://a:1,b:2", "redis://a:1", (("a", 1), ("b", 2))),
        ("redis+cluster://a", "redis://a", (("a", 6379),)),
        ("REDIS+CLUSTER://a/0", "redis://a/0", (("a", 6379),)),
        ("rediss+cluster://u:p@a:1,b:2/0?ssl_ca_certs=x", "rediss://u:p@a:1/0?ssl_ca_certs=x", (("a", 1), ("b", 2))),
        ("redis+cluster://[::1]:7,[fe80::2]", "redis://[::1]:7", (("::1", 7), ("fe80::2", 6379))),
        ("redis+cluster://:p%40,@a:1", "redis://:p%40,@a:1", (("a", 1),)),
        ("redis+cluster://a:1?db=0", "redis://a:1?db=0", (("a", 1),)),
    ],
)
def test_the_servers_of_a_url(url: str, first: str, seeds: tuple[tuple[str, int], ...]) -> None:
    found = parse_url(url)
    assert (found.url, found.seeds) == (first, seeds)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis+cluster://a:1/1", "database 0 only"),
        ("redis+cluster://a:1/0?db=3", "database 0 only"),
        ("redis+cluster://", "host:port"),
        ("redis+cluster://a:1,", "host:port"),
        ("redis+cluster://s3cret:x", "host:port"),
        ("redis+cluster://a:99999", "host:port"),
        ("redis+s3cret://a:1", "are supported"),
        ("s3cret", "are supported"),
    ],
)
def test_what_names_no_servers_is_refused(url: str, advice: str) -> None:
    with pytest.raises(BackendConfigError, match=advice) as caught:
        parse_url(url)
    assert url == "s3cret" or "s3cret" not in str(caught.value).replace("redis+s3cret", "")
