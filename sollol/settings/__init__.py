"""Every setting of SOLLOL, and where its value came from.

``model.py`` declares the settings with ``nodes.py``, ``scheduling.py`` and ``sharding.py``, ``address.py`` reads node URLs, ``sources.py`` reads the file,
the environment and the command line, ``load.py`` puts them together. The command line interface
builds one :class:`Settings` and passes it down; nothing else reads the environment.
"""

from sollol.settings.address import is_loopback
from sollol.settings.load import Loaded, SettingsError, load, load_settings
from sollol.settings.model import (
    LogSettings,
    ProbeSettings,
    ServerSettings,
    Settings,
    UpstreamSettings,
)
from sollol.settings.nodes import EMBEDDED_ID, DiscoverySettings, EmbeddedSettings, NodeSettings
from sollol.settings.scheduling import ModelSettings, QueueSettings, SchedulingSettings
from sollol.settings.sharding import LOCAL_LINK, LOCAL_WORKER, ShardingSettings, WorkerSettings

__all__ = [
    "EMBEDDED_ID",
    "LOCAL_LINK",
    "LOCAL_WORKER",
    "DiscoverySettings",
    "EmbeddedSettings",
    "Loaded",
    "LogSettings",
    "ModelSettings",
    "NodeSettings",
    "ProbeSettings",
    "QueueSettings",
    "SchedulingSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "ShardingSettings",
    "UpstreamSettings",
    "WorkerSettings",
    "is_loopback",
    "load",
    "load_settings",
]
