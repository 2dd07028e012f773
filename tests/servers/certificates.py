"""A certificate authority for one test cluster, with a certificate for its servers and one for its clients."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files. The client's common name is `rewrap`, which etcd takes for a user name where it has users."""

    cacert: Path
    cert: Path
    key: Path
    server_cert: Path
    server_key: Path

    @classmethod
    def write(cls, directory: Path) -> Self:
        """Makes new ones in the directory."""
        directory.mkdir(parents=True)
        files = cls(*(directory / name for name in ("ca.crt", "client.crt", "client.key", "server.crt", "server.key")))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(files.cacert)
        client = authority.issue_cert("rewrap.test", common_name="rewrap")
        client.cert_chain_pems[0].write_to_path(files.cert)
        client.private_key_pem.write_to_path(files.key)
        server = authority.issue_cert("127.0.0.1", "localhost")
        server.cert_chain_pems[0].write_to_path(files.server_cert)
        server.private_key_pem.write_to_path(files.server_key)
        return files

    def context(self) -> ssl.SSLContext:
        """For a client of Python's own."""
        context = ssl.create_default_context(cafile=self.cacert)
        context.load_cert_chain(self.cert, self.key)
        return context
