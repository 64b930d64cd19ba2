"""URLs of clusters: the servers that they name, and what is refused without being quoted."""

from __future__ import annotations

import pytest

from histstore import BackendConfigError, RedisBackend
from histstore.wire.urls import SentinelUrl, parse_url


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


S, T = ("s", 26379), ("t", 1)


@pytest.mark.parametrize(
    ("url", "server", "sentinel"),
    [
        ("redis+sentinel://s/main", "redis://s:26379/", ("main", (S,), None, None, False)),
        ("redis+sentinel://s,t:1/main/3", "redis://s:26379/3", ("main", (S, T), None, None, False)),
        ("REDISS+SENTINEL://u:p@s,t:1/main/3?ssl_ca_certs=x", "rediss://u:p@s:26379/3?ssl_ca_certs=x",
         ("main", (S, T), None, None, True)),
        ("redis+sentinel://u:p@s/a%2Fb?sentinel_username=v&db=2&sentinel_password=q%26&sentinel_ssl=yes",
         "redis://u:p@s:26379/?db=2", ("a/b", (S,), "v", "q&", True)),
        ("rediss+sentinel://[::1]:5,s/main?sentinel_ssl=False", "rediss://[::1]:5/",
         ("main", (("::1", 5), S), None, None, False)),
    ],
)  # fmt: skip
def test_the_sentinels_of_a_url(url: str, server: str, sentinel: tuple[object, ...]) -> None:
    found = parse_url(url)
    assert (found.url, found.sentinel) == (server, SentinelUrl(*sentinel))  # type: ignore[arg-type]
    assert "q&" not in repr(found)
    assert "u:p@" not in repr(found)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis+sentinel://s", "the service that they watch"),
        ("redis+sentinel://s/", "the service that they watch"),
        ("redis+sentinel://s?db=1", "the service that they watch"),
        ("redis+sentinel://:s3cret#@s/main", "names the sentinels as host:port"),
        ("redis+sentinel://:s3/cret@s/main", "names the sentinels as host:port"),
        ("redis+sentinel://s,/main", "names the sentinels as host:port"),
        ("redis+sentinel://s:0/main", "names the sentinels as host:port"),
        ("redis+sentinel://s/main#s3cret", "percent-encode"),
        ("redis+sentinel://u:1/s3cret@s", "percent-encode"),
        ("redis+sentinel://u:1/2/s3cret@s/main", "percent-encode"),
        ("redis+sentinel://s/main?sentinel_ssl=s3cret", "true or false"),
        ("redis+sentinel://s/main?sentinel_pasword=s3cret", "sentinel_username, sentinel_password"),
    ],
)
def test_what_names_no_service_is_refused(url: str, advice: str) -> None:
    with pytest.raises(BackendConfigError, match=advice) as caught:
        parse_url(url)
    assert "s3cret" not in str(caught.value)


def test_a_database_that_is_no_number_is_refused() -> None:
    with pytest.raises(BackendConfigError, match="whole number"):
        RedisBackend.from_url("redis+sentinel://s/main/x")
