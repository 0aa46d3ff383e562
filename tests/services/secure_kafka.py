"""A real broker behind locks: TLS, passwords, certificates, and an authorizer that allows what `allow` granted.

The plain listener is the fixture's own: whoever comes by it is a superuser. Each other one has a lock of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from tests.services.authority import Authority
from tests.services.kafka import KafkaBroker
from tests.services.process import free_ports, run_blocking

if TYPE_CHECKING:
    from collections.abc import Iterable

# Listener -> its protocol and the pair it shows.
LISTENERS = {
    "SECURE": ("SASL_SSL", "broker"),  # SCRAM-SHA-512 and PLAIN
    "SCRAM": ("SASL_SSL", "broker"),  # SCRAM-SHA-512 alone
    "MTLS": ("SSL", "broker"),  # a client's certificate
    "TLS": ("SSL", "broker"),
    "EXPIRED": ("SSL", "expired"),
    "OTHER": ("SSL", "other"),  # for another name
    "LOGIN": ("SASL_PLAINTEXT", ""),
}
PASSWORDS = {"trainer": "train-s3cret", "reader": "read-s3cret", "nobody": "no-s3cret"}
RESOURCES = {"topic": 2, "group": 3, "cluster": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8}
_ALLOW, _LITERAL = 3, 3
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class SecureKafka(KafkaBroker):
    """The broker; users are those of PASSWORDS, and `CN=robot` by its certificate."""

    def __init__(self, folder: Path, *, is_killed: bool = False) -> None:
        super().__init__(folder, is_killed=is_killed)
        self.authority = Authority(folder / "certificates")
        self.stranger = Authority(folder / "stranger", "Nobody's authority")
        self.authority.sign("broker", "IP:127.0.0.1,DNS:localhost")
        self.authority.sign("other", "DNS:broker.example")
        self.authority.sign("expired", "IP:127.0.0.1", expired=True)
        self.robot = self.authority.sign("robot")
        self.strange_robot = self.stranger.sign("robot")
        self._locked = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))

    def at(self, listener: str, topic: str, scheme: str = "kafkas") -> str:
        """The URL of a topic by one of LISTENERS."""
        return f"{scheme}://127.0.0.1:{self._locked[listener]}/{topic}"

    def allow(self, user: str, kind: str, name: str, operations: Iterable[str]) -> None:
        """Let a user do something with a topic or a group."""
        run_blocking(self._allow(f"User:{user}", RESOURCES[kind], name, [OPERATIONS[one] for one in operations]))

    async def _allow(self, principal: str, kind: int, name: str, operations: list[int]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            for operation in operations:
                answer = await admin._send_request(
                    CreateAclsRequest(kind, name, _LITERAL, principal, "*", operation, _ALLOW)
                )
                assert answer.creation_responses[0][0] == 0, answer
        finally:
            await admin.close()

    def _properties(self, data: Path) -> str:
        text = super()._properties(data)
        added = "".join(f",{name}://127.0.0.1:{port}" for name, port in self._locked.items())
        lines = []
        for line in text.replace("\\\n", "").splitlines():
            key = line.partition("=")[0]
            more = {
                "listeners": added,
                "advertised.listeners": added,
                "listener.security.protocol.map": "".join(f",{name}:{how}" for name, (how, _) in LISTENERS.items()),
            }.get(key, "")
            lines.append(line + more)
        lines += [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.authority.certificate}",
            "ssl.keystore.type=PEM",
            "connection.failed.authentication.delay.ms=10",
        ]
        for name, (how, pair) in LISTENERS.items():
            here = f"listener.name.{name.lower()}"
            if pair:
                lines.append(f"{here}.ssl.keystore.location={self.folder / 'certificates' / pair}.pem")
            if how.startswith("SASL"):
                mechanisms = ["SCRAM-SHA-512"] if name == "SCRAM" else ["SCRAM-SHA-512", "PLAIN"]
                users = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
                lines += [
                    f"{here}.sasl.enabled.mechanisms={','.join(mechanisms)}",
                    f"{here}.scram-sha-512.sasl.jaas.config={_SCRAM}",
                    f"{here}.plain.sasl.jaas.config={_PLAIN} {users};",
                ]
        lines += ["listener.name.mtls.ssl.client.auth=required", ""]
        return "\n".join(lines)

    def _format_options(self) -> list[str]:
        return [
            option
            for user, password in PASSWORDS.items()
            for option in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        ]
