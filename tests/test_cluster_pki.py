from __future__ import annotations

import contextlib
import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from labkit.cluster.pki import Authority, Pair, new_key


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("test")


def _handshake(tmp_path: Path, server: Pair, client: Pair | None, *, trusted_by_server: str, trusted: str) -> None:
    """Connect a client to a server within this process; raises where one does not accept the other."""
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(*server.write(tmp_path, "server"))
    accept.load_verify_locations(cadata=trusted_by_server)
    accept.verify_mode = ssl.CERT_REQUIRED if client else ssl.CERT_NONE
    connect = ssl.create_default_context(cadata=trusted)
    if client:
        connect.load_cert_chain(*client.write(tmp_path, "client"))
    a_in, a_out, b_in, b_out = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        accept.wrap_bio(a_in, a_out, server_side=True),
        connect.wrap_bio(b_in, b_out, server_hostname="127.0.0.9"),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            b_in.write(a_out.read())
            a_in.write(b_out.read())
    for end in ends:
        end.do_handshake()


def test_server_and_client_accept_each_other(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue("server", hosts=["127.0.0.9"]), authority.issue("client")
    ca = authority.pair.certificate
    _handshake(tmp_path, server, client, trusted_by_server=ca, trusted=ca)


def test_client_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue("server", hosts=["127.0.0.9"]), Authority.new("test").issue("client")
    ca = authority.pair.certificate
    with pytest.raises(ssl.SSLError):
        _handshake(tmp_path, server, client, trusted_by_server=ca, trusted=ca)


def test_certificate_of_another_address_is_refused(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server", hosts=["127.0.0.10"])
    ca = authority.pair.certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, server, None, trusted_by_server=ca, trusted=ca)


def test_user_and_groups_are_where_kubernetes_looks(authority: Authority) -> None:
    pair = authority.issue("system:node:lab-host", organizations=["system:nodes"])
    subject = x509.load_pem_x509_certificate(pair.certificate.encode()).subject
    assert subject.rfc4514_string() == "CN=system:node:lab-host,O=system:nodes"


def test_certificate_begins_in_the_past(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.issue("a").certificate.encode())
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now - datetime.timedelta(hours=1)
    assert certificate.not_valid_after_utc > now + datetime.timedelta(days=365)


def test_pair_survives_its_files_and_is_for_its_owner_only(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.pair.write(tmp_path, "ca")
    assert Pair.read(tmp_path, "ca") == authority.pair
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Authority(Pair.read(tmp_path, "ca")).issue("b").certificate.startswith("-----BEGIN CERTIFICATE")
    assert certificate.name == "ca.crt"


def test_token_key_has_the_form_the_api_server_reads() -> None:
    assert new_key().startswith("-----BEGIN EC PRIVATE KEY-----")
