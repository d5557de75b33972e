"""The fields of a config.json, read with their defaults and bounds; nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.errors import ModelCorrupt

MAX_SIZE = 1 << 24
"""Of a dimension. The largest vocabulary that is public has 262,208 entries."""
MAX_LAYERS = 4096
MAX_EXPERTS = 65_536


class Fields:
    """Reads a config; each default is the one of transformers' configuration class for its family."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config = config
        self.name = name

    def __contains__(self, key: str) -> bool:
        return self._config.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, most: int = MAX_SIZE, least: int = 1) -> int:
        """A whole number in its bounds. Raises ModelCorrupt for another value, or none without a default."""
        value = self._config.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            said = f"has {key} = {str(value)[:60]!r}" if value is not None else f"has no {key}"
            raise ModelCorrupt(f"the config of {self.name} {said}, must be a whole number from {least} to {most}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._config.get(key)
        return value if isinstance(value, bool) else default

    def text(self, key: str, default: str = "") -> str:
        value = self._config.get(key)
        return value if isinstance(value, str) else default

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._config.get(key)
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._config.get(key)
        return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()

    def below(self, key: str) -> Fields:
        """The fields of a part: `text_config`; an empty one where there is none."""
        value = self._config.get(key)
        return Fields(value if isinstance(value, Mapping) else {}, f"{self.name} ({key})")

    @property
    def raw(self) -> Mapping[str, Any]:
        return self._config


def num_layers_of(fields: Fields, key: str = "num_hidden_layers", default: int | None = None) -> int:
    return fields.integer(key, default, most=MAX_LAYERS)
