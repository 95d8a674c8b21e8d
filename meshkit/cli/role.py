"""Whether a data folder is that of a blind relay, which has no network."""

from __future__ import annotations

import tomllib

from meshkit.errors import ConfigError
from meshkit.runtime.config import CONFIG_FILE, MAX_CONFIG_FILE
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.services.programs import MESH_RELAY


def is_blind(folder: DataFolder) -> bool:
    """
    @raise ConfigError: if its configuration file cannot be read.
    """
    if folder.program() != MESH_RELAY.command:
        return False
    path = folder.file(CONFIG_FILE)
    try:
        said = tomllib.loads(LocalFiles().read(path, MAX_CONFIG_FILE).decode("utf-8"))
    except FileNotFoundError:
        return False
    except ValueError as e:
        raise ConfigError(f"{path} is not TOML ({e}): mend it, or remove it") from None
    return said.get("role") == "blind"
