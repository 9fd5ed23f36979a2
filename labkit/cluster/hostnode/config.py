"""The agent's configuration file: what it must be told and cannot find out."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, get_type_hints

from labkit.errors import InputError

SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")


@dataclass(frozen=True)
class AgentConfig:
    """What the agent must know; each field is a key of the JSON file.

    Parameters
    ----------
    node_name : str
        The node it is; its identity is ``system:node:<node_name>``.
    address : str
        The lab's loopback address: host of probes, ports and port-forwards.
    kubeconfig : str
        File with the agent's identity.
    state_dir : str
        Folder for volumes and records of running pods; the agent's own.
    tools_dir : str
        Folder of the lab's programs, searched after ``path``.
    path : tuple of str
        Folders that are PATH in every container.
    api_server_host, api_server_port
        What ``KUBERNETES_SERVICE_HOST`` and ``KUBERNETES_SERVICE_PORT`` say in every container.
    ca_file : str
        Certificate authority of the API server.
    kwok_port : int
        KWOK's kubelet port, which serves logs and port-forwards of this node too.
    cluster_domain : str
        Suffix of full Service names, such as ``cluster.local``.
    static_dir_prometheus : str
        Folder with Prometheus' web pages, shown to it as ``static`` where it looks for them; empty where there is none.
    logs_dir : str
        Folder of the containers' logs.
    kubelet_port : int
        The node's own kubelet port, which answers for logs and carries port-forwards on to KWOK; 0: KWOK's port is
        the node's, and a followed log goes on for ever.
    cert_file, key_file : str
        The certificate that the kubelet port shows.
    """

    node_name: str
    address: str
    kubeconfig: str
    state_dir: str
    tools_dir: str
    path: tuple[str, ...]
    api_server_host: str
    api_server_port: int
    ca_file: str
    kwok_port: int
    logs_dir: str
    cluster_domain: str = "cluster.local"
    kubelet_port: int = 0
    cert_file: str = ""
    key_file: str = ""
    static_dir_prometheus: str = ""

    @property
    def node_port(self) -> int:
        """Return the port that the API server is told to ask about this node's pods."""
        return self.kubelet_port or self.kwok_port

    @property
    def search_path(self) -> str:
        """Return PATH as containers see it: the lab's programs, then the host's."""
        return ":".join(dict.fromkeys((*self.path, self.tools_dir, *SYSTEM_PATH)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AgentConfig:
        """Validate the values of a configuration file.

        Raises
        ------
        InputError
            If a key is missing, unknown, or of the wrong type, or the address is no loopback address.
        """
        hints = get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise InputError(f"unknown key {unknown[0]!r} in the host node's configuration; known: {', '.join(hints)}")
        given: dict[str, Any] = {}
        for field in fields(cls):
            wanted = hints[field.name]
            if field.name not in values:
                if field.default is not MISSING:
                    continue
                raise InputError(f"the host node's configuration lacks the key {field.name!r}")
            value = values[field.name] or "" if field.name == "static_dir_prometheus" else values[field.name]
            if field.name == "path":
                if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
                    raise InputError(f"path: wanted a list of folders, found {value!r}")
                value = tuple(value)
            elif not isinstance(value, wanted) or isinstance(value, bool):
                raise InputError(f"{field.name}: wanted {wanted.__name__}, found {value!r}")
            given[field.name] = value
        config = cls(**given)
        try:
            loopback = ipaddress.ip_address(config.address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise InputError(f"address: wanted a loopback address, found {config.address!r}")
        for name in ("api_server_port", "kwok_port"):
            if not 0 < getattr(config, name) < 65536:
                raise InputError(f"{name}: wanted a port, found {getattr(config, name)}")
        if config.kubelet_port and not (config.cert_file and config.key_file):
            raise InputError("kubelet_port: wanted cert_file and key_file beside it, found none")
        for name in ("state_dir", "logs_dir"):
            if not Path(getattr(config, name)).is_absolute():
                raise InputError(f"{name}: wanted an absolute path, found {getattr(config, name)!r}")
        return config


def read_config(path: Path) -> AgentConfig:
    """Read and validate a configuration file.

    Raises
    ------
    InputError
        If the file cannot be read or is not valid.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise InputError(f"wanted the host node's configuration in {path}, found: {exc}") from exc
    if not isinstance(values, dict):
        raise InputError(f"{path}: wanted a JSON object, found {type(values).__name__}")
    return AgentConfig.from_json(values)
