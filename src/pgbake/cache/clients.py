"""Clients of object stores (obstore), and the credentials that they take: from where the tools of each kind look."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from pgbake.errors import CacheError

#: How often a request is tried again when the server fails or is overloaded, and within what time.
_RETRIES = 5
_RETRY_SECONDS = 60

_PARAMETERS = frozenset({"region", "endpoint", "scheme", "profile", "addressing-style", "anonymous"})
#: Parameters of Nix's that say how a cache is written or asked, not where it is.
_PASSED_OVER = frozenset(
    {"compression", "priority", "trusted", "want-mass-query", "parallel-compression", "compression-level"}
)


#: Where systems keep the certificates that they trust: Debian's, Red Hat's, SUSE's, and Alpine's place.
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)  # fmt: skip


def _client_options() -> dict[str, Any]:
    _require_certificates()
    return {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(days=1),  # of a whole transfer
        "user_agent": "pgbake",
    }


def _require_certificates() -> None:
    """Let a machine that has no certificates use those of certifi, as Python's clients do.

    Without any, no client can be made at all, not even one for http. Whose paths are believed is another matter: of
    that signatures decide.
    """
    told = "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ
    if not (told or any(Path(file).exists() for file in _CERTIFICATES)):
        import certifi

        os.environ["SSL_CERT_FILE"] = certifi.where()


def _retries() -> dict[str, Any]:
    return {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }


def web_client(url: str) -> Any:
    """Return a client of a web server, with the password that ``~/.netrc`` has for its host.

    :raises CacheError: that file cannot be read.
    """
    from obstore.store import HTTPStore

    options = _client_options()
    host = urlsplit(url).hostname or ""
    if credentials := _netrc(host):
        import base64

        token = base64.b64encode(":".join(credentials).encode()).decode()
        options["default_headers"] = {"Authorization": f"Basic {token}"}
    return HTTPStore.from_url(url, client_options=options, retry_config=_retries())  # type: ignore[arg-type]


def _netrc(host: str) -> tuple[str, str] | None:
    import netrc

    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(file).authenticators(host)
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as error:
        raise CacheError(f"cannot read {file}: {error}", hint="correct it, or move it away") from None
    return (found[0], found[2] or "") if found else None


def s3_client(bucket: str, path: str, query: str) -> Any:
    """Return a client of a bucket, or of what lies below ``path`` in it.

    :param query: parameters of the URL; see `pgbake.cache.objects`.
    :raises CacheError: one of them is not known, or the AWS profile is absent or cannot be read.
    """
    from obstore.store import S3Store

    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := given.keys() - _PARAMETERS - _PASSED_OVER:
        raise CacheError(
            f"s3://{bucket}: the parameter {min(unknown)} is not known", hint=f"known: {', '.join(sorted(_PARAMETERS))}"
        )
    config: dict[str, Any] = {}
    profile = given.get("profile") or os.environ.get("AWS_PROFILE")
    if "AWS_ACCESS_KEY_ID" not in os.environ or given.get("profile"):
        config |= _aws_profile(profile)
    if region := given.get("region"):
        config["region"] = region
    if endpoint := given.get("endpoint"):
        config["endpoint"] = endpoint if "://" in endpoint else f"{given.get('scheme', 'https')}://{endpoint}"
    style = given.get("addressing-style", "path" if "endpoint" in config else "virtual")
    if style not in ("path", "virtual"):
        raise CacheError(f"s3://{bucket}: the addressing style {style} is not known", hint="known: path, virtual")
    config["virtual_hosted_style_request"] = style == "virtual" and "endpoint" not in config
    if given.get("anonymous") == "true":
        config["skip_signature"] = True
    prefix = quote(path.strip("/"), safe="/") or None
    return S3Store(bucket, prefix=prefix, client_options=_client_options(), retry_config=_retries(), **config)  # type: ignore[arg-type]


def _aws_profile(name: str | None) -> dict[str, str]:
    """Return what ``~/.aws/credentials`` and ``~/.aws/config`` hold of a profile, in the client's words."""
    import configparser

    credentials = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws/credentials")
    config = Path(os.environ.get("AWS_CONFIG_FILE") or Path.home() / ".aws/config")
    found: dict[str, str] = {}
    for file, section in ((config, f"profile {name}" if name else "default"), (credentials, name or "default")):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise CacheError(f"cannot read {file}: {first_line(str(error))}", hint="correct it") from None
        if parser.has_section(section):
            found |= dict(parser[section])
    if name and not found:
        raise CacheError(f'there is no AWS profile "{name}"', hint=f"add it to {credentials}, or name another")
    words = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
        "endpoint_url": "endpoint",
    }
    return {words[key]: value for key, value in found.items() if key in words}


def first_line(text: str) -> str:
    """Return the first line of a client's message, which may go on for pages."""
    return text.partition("\n")[0][:300]
